"""Where `generate` puts its files: numbered, none over another, with a line about each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

from clipguide.files import append_lines
from clipguide.report.metadata import RESULTS
from clipguide.texts import read_text

SHEET = "contact_sheet"
BASELINE, PAIR = "-unguided", "-compare"  # end the names of what belongs to a picture
_NUMBER = re.compile(r"(\d{4,9})-")


@dataclass
class RunFolder:
    """A folder that runs may write to at the same time; a picture that is there stays."""

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def free_number(self) -> int:
        """The first that no file here has, nor any after it."""
        numbers = [number_of(file.name) for file in self.path.iterdir()]
        return max((number for number in numbers if number is not None), default=-1) + 1

    def write_numbered(
        self, prompt: str, write: Callable[[Path], None], number: int | None = None
    ) -> Path:
        """The file that `write` made: a number, the next where its name is taken, and the prompt's
        words.

        `write(path)` raises FileExistsError where another run took that name meanwhile.

        Args:
            prompt: what it shows.
            write: makes the file.
            number: the first to try; None: the next free one.
        """
        for other in count(self.free_number() if number is None else number):
            file = self.path / f"{other:04d}-{slug(prompt)}.png"
            beside = [file.with_name(f"{file.stem}{end}.png") for end in (BASELINE, PAIR)]
            if not file.exists() and any(one.exists() for one in beside):
                continue
            try:
                write(file)
            except FileExistsError:
                continue
            return file
        raise AssertionError("numbers do not end")

    def write_sheet(self, write: Callable[[Path], None]) -> Path:
        """The contact sheet's file, as `write_numbered`."""
        for number in count():
            file = self.path / (f"{SHEET}-{number}.png" if number else f"{SHEET}.png")
            try:
                write(file)
            except FileExistsError:
                continue
            return file
        raise AssertionError("numbers do not end")

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Lines of results.jsonl, beside those of other runs."""
        append_lines(self.path / RESULTS, [json.dumps(row, allow_nan=False) for row in rows])

    def rows(self) -> list[dict[str, Any]]:
        """The lines of results.jsonl; one that a killed run left unfinished is none."""
        file = self.path / RESULTS
        lines = read_text(file).split("\n") if file.exists() else []
        return [row for line in lines if (row := _row(line)) is not None]


def _row(line: str) -> dict[str, Any] | None:
    try:
        value: object = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def number_of(name: str) -> int | None:
    """The number that a picture's file name begins with; None for another file."""
    match = _NUMBER.match(name)
    return None if match is None else int(match[1])


def slug(prompt: str) -> str:
    """A prompt as a part of a file name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:48].rstrip("-") or "picture"
