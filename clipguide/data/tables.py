"""Rows of a CSV or TSV: every row has the header's cells, or it is an error that says where."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from clipguide.images import SUFFIXES
from clipguide.texts import MAX_TEXT, split_lines

DELIMITERS = {".tsv": "\t", ".csv": ","}

Row = tuple[str, list[str]]  # "line 3", its cells

_BARE = r'[^",\r\n]*'
_QUOTED = r' *"(?:[^"]|"")*" *'
_RECORD = re.compile(rf"(?:{_QUOTED}|{_BARE})(?:,(?:{_QUOTED}|{_BARE}))*(?:\r\n|\n|\r)?")


def read_table(text: str, delimiter: str) -> tuple[list[str], list[Row]]:
    r"""The header, and the rows that are not blank, each with where it begins.

    A CSV (`,`) is read as RFC 4180 has it, spaces around a quoted cell left out; in a TSV a quote
    is a letter like any other. Rows end at \n, \r\n or \r; in a quoted cell these are letters.

    Raises:
        ValueError: a quote that is not closed or stands in a cell without quotes, a quoted cell
            that holds what looks like the next row, a row with more or fewer cells than the header.
    """
    records = _quoted_records(text) if delimiter == "," else _plain_records(text, delimiter)
    rows = [(place, cells) for place, cells in records if any(cell.strip() for cell in cells)]
    if not rows:
        return [], []
    names = [name.strip() for name in rows[0][1]]
    for place, cells in rows[1:]:
        _check_row(place, cells, names, delimiter)
    return names, rows[1:]


def _plain_records(text: str, delimiter: str) -> Iterator[Row]:
    for number, line in enumerate(split_lines(text), 1):
        yield f"line {number}", line.split(delimiter)


def _quoted_records(text: str) -> Iterator[Row]:
    csv.field_size_limit(max(MAX_TEXT + 1, len(text) + 1))  # too long a cell is refused by name
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True, skipinitialspace=True)
    while True:
        lines.taken.clear()
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{place}: a quote that is not closed or not doubled") from error
        if _RECORD.fullmatch("".join(lines.taken)) is None:
            hint = "put the cell in quotes and double those inside"
            raise ValueError(f'{place}: a quote in a cell without quotes; {hint}: "5"" pipe"')
        yield place, cells


class _Lines:
    """The lines of a text with their ends, as `csv` wants them; `taken` is what it took."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="")  # ends at \n, \r\n and \r, kept as they are
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.taken.append(line)
            yield line


def _check_row(place: str, cells: list[str], names: list[str], delimiter: str) -> None:
    expected = f"expected {len(names)} cells ({', '.join(names)})"
    if len(cells) < len(names):
        raise ValueError(f"{place}: got {names[len(cells)]} None, {expected}")
    if len(cells) > len(names):
        raise ValueError(f"{place}: got {len(cells)} cells, {expected}")
    for cell in cells:
        for line in split_lines(cell)[1:]:
            parts = line.split(delimiter)
            suffixes = {PurePosixPath(part.strip()).suffix.lower() for part in parts}
            if len(parts) >= len(names) and suffixes & SUFFIXES:
                raise ValueError(f"{place}: a quoted cell goes on over what looks like a row")
