"""Where things go: data to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from clipguide.texts import printable

JsonOption = Annotated[bool, typer.Option("--json", help="Print the data as JSON on stdout.")]
ScorerOption = Annotated[
    str | None,
    typer.Option(
        "--scorer",
        help="open_clip:ARCH/TAG, hf:REPO_OR_DIR, a directory, or starter, which knows only its "
        "own drawn scenes; vqa:MODEL, itm:MODEL, caption-back:CAPTIONER, "
        "log-prob:CAPTIONER. [starter for pictures that it made; none for "
        "others]",
    ),
]


def _present(device: str) -> str:
    """A device that is there; ValueError names those that are. For the CPU nothing is imported."""
    if device == "cpu":
        return device
    from clipguide.generation.models import checked_device

    return checked_device(device)


DeviceOption = Annotated[
    str, typer.Option("--device", help="cpu, cuda, cuda:1, mps, auto.", callback=_present)
]


EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="here, or ray: workers on a Ray cluster or all cores. accelerate launch needs none.",
    ),
]


Print0Option = Annotated[
    bool,
    typer.Option("--print0", help="Print the names alone, a NUL after each, for xargs -0."),
]


def note(message: str) -> None:
    """A line on stderr; what would not show on a terminal is escaped. Of several processes that
    were launched together the first alone speaks."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(printable(message), err=True)


def say(line: str) -> None:
    """A line of data on stdout; what would not show on a terminal is escaped."""
    typer.echo(printable(line))


def emit(value: object) -> None:
    """A JSON value on stdout. Numbers that JSON lacks (NaN) are an error, never written."""
    typer.echo(json_text(value))


def json_text(value: object) -> str:
    """`value` as JSON that any reader takes and a terminal shows.

    Control characters and bidirectional marks are JSON's own escapes; a byte of a file name that is
    not UTF-8, which JSON has no form for, reads as `\\xff` (--print0 gives names as they are).
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    text = _HALF.sub(lambda match: "\\" + printable(match[0]), text)
    unseen = _NOT_ASCII if _ascii() else _UNSEEN
    return unseen.sub(lambda match: json.dumps(match[0])[1:-1], text)


_HALF = re.compile("[\ud800-\udfff]")
_NOT_ASCII = re.compile("[^\\x00-\\x7e]")
_UNSEEN = re.compile("[\\x7f-\\x9f\\xad\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def print0(names: Sequence[str | Path]) -> None:
    """The names as the file system has them, a NUL after each."""
    typer.echo(b"".join(os.fsencode(name) + b"\0" for name in names), nl=False)


@contextmanager
def keeping(kept: Callable[[], str]) -> Generator[None]:
    """An interruption inside says what is kept: `kept()` is asked then."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(kept()) from error


def _ascii() -> bool:
    """Whether stdout cannot show other scripts (a C locale)."""
    return "utf" not in (getattr(sys.stdout, "encoding", None) or "").lower()
