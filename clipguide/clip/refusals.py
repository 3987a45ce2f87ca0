"""One clear line out of what a model library raises."""

from __future__ import annotations

import re

_LONGEST = 240  # characters


def refusal(name: str, error: Exception) -> ValueError:
    """The error a user sees when `name` cannot be loaded: the first sentence of the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    sentence = re.split(r"\. (?=[A-Z])", lines[0])[0] if lines else type(error).__name__
    return ValueError(f"{name}: cannot be loaded ({sentence[:_LONGEST]})")
