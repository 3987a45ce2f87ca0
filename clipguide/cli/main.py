"""The entry point: runs a command, and turns a user's mistake into one line and exit code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO

from clipguide.cli.allocator import keep_freed_memory
from clipguide.cli.app import Interrupted, app
from clipguide.cli.mistakes import explain
from clipguide.texts import printable

DEBUG = "--debug"
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line `argv` (default: the process's own) and exits.

    Exit codes: 0 done; 1 done, with a bad outcome (a picture that could not be reproduced) or an
    error of ours; 2 a mistake of the user's, in one line on stderr; 130 interrupted.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [argument for argument in given if argument != DEBUG]
    warnings.showwarning = _show_warning
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # a file name that cannot be shown must not end the output
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(arguments, prog_name="clipguide", standalone_mode=False)
    except (KeyboardInterrupt, Interrupted) as error:
        line = ": ".join(["interrupted", *map(str, error.args)])
        sys.stderr.write(f"\nclipguide: {printable(line)}\n")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if DEBUG in given:
            raise
        line, code = explain(error)
        sys.stderr.write(f"clipguide: {line}\n")
    sys.exit(code or 0)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings as one line; those of the libraries below are for developers, not users."""
    if "clipguide" in filename:
        sys.stderr.write(f"clipguide: warning: {printable(str(message))}\n")
