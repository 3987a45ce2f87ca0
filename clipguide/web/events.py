"""One queue: what computes waits for what computes, whoever asked for it."""

from __future__ import annotations

from typing import Any

COMPUTED: dict[str, Any] = {"concurrency_id": "computed", "concurrency_limit": 1}
"""Of an event that runs a model; Gradio alone would run one of each kind at once."""
READ: dict[str, Any] = {"concurrency_id": "read", "concurrency_limit": 4}
"""Of one that reads a file or waits."""
