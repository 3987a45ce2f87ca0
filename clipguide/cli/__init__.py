"""The `clipguide` command. Each file of this folder is one command; heavy imports are inside them."""

from __future__ import annotations

from clipguide.cli.main import main

__all__ = ["main"]
