"""Where things go: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print the data as JSON on stdout.")]
ScorerOption = Annotated[
    str,
    typer.Option(
        "--scorer",
        help="starter, starter:judge, open_clip:ARCH/TAG, hf:REPO_OR_DIR, or a directory.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]


def note(message: str) -> None:
    """A line on stderr."""
    typer.echo(message, err=True)


def emit(value: object) -> None:
    """A JSON value on stdout. Numbers that JSON lacks (NaN) are an error, never written."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=_ascii(), allow_nan=False))


def _ascii() -> bool:
    """Whether stdout cannot show other scripts (a C locale)."""
    return "utf" not in (getattr(sys.stdout, "encoding", None) or "").lower()
