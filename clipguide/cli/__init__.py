"""The `clipguide` command: one file per command, heavy imports inside the functions."""

from __future__ import annotations

from clipguide.cli.main import main

__all__ = ["main"]
