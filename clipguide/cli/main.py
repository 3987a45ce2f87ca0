"""The entry point: runs a command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import sys

from clipguide.cli.app import app


def main(argv: list[str] | None = None) -> None:
    """Runs the command line `argv` (default: the process's own) and exits."""
    sys.exit(app(args=argv, standalone_mode=False) or 0)
