"""Where `generate` puts its files: numbered, none over another, with a line about each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from clipguide.files import append_lines
from clipguide.report.metadata import RESULTS

SHEET = "contact_sheet"
BASELINE, PAIR = "-unguided", "-compare"  # end the names of what belongs to a picture
_NUMBER = re.compile(r"(\d{4,9})-")


@dataclass
class RunFolder:
    """A folder that runs may write to at the same time; a picture that is there stays."""

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for file in self.path.iterdir() if (m := _NUMBER.match(file.name))]
        self._next = max(taken, default=-1) + 1

    def write_numbered(self, prompt: str, write: Callable[[Path], None]) -> Path:
        """The file that `write` made: the next free number and the prompt's words.

        `write(path)` raises FileExistsError where another run took that name meanwhile.
        """
        for number in count(self._next):
            file = self.path / f"{number:04d}-{slug(prompt)}.png"
            others = (file.with_name(f"{file.stem}{end}.png") for end in (BASELINE, PAIR))
            if any(other.exists() for other in others):
                continue
            try:
                write(file)
            except FileExistsError:
                continue
            self._next = number + 1
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


def slug(prompt: str) -> str:
    """A prompt as a part of a file name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:48].rstrip("-") or "picture"
