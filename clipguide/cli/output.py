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


def _present(device: str) -> str:
    """A device that is there; ValueError names those that are. For the CPU nothing is imported."""
    if device == "cpu":
        return device
    from clipguide.generation.models import checked_device

    return checked_device(device)


DeviceOption = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.", callback=_present)
]


def note(message: str) -> None:
    """A line on stderr."""
    typer.echo(message, err=True)


def emit(value: object) -> None:
    """A JSON value on stdout. Numbers that JSON lacks (NaN) are an error, never written."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=_ascii(), allow_nan=False))


def _ascii() -> bool:
    """Whether stdout cannot show other scripts (a C locale)."""
    return "utf" not in (getattr(sys.stdout, "encoding", None) or "").lower()
