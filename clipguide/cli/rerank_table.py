"""A table of prompt and image for `rerank --table`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clipguide.cli.mistakes import Mistake

PROMPTS, IMAGES = ("prompt", "caption", "text"), ("image", "file", "path")


@dataclass(frozen=True)
class Pair:
    """A row: what an image should show."""

    prompt: str
    image: Path


def read_pairs(table: Path) -> list[Pair]:
    """The rows of a .tsv, .csv or .jsonl with columns prompt and image; relative names of images
    are relative to the table.

    Raises:
        ValueError: it cannot be read, a column is missing, a prompt is empty.
    """
    try:
        rows = _rows(table)
        pairs = [_pair(place, row, table.parent) for place, row in rows]
        if not pairs:
            raise ValueError("no rows in it")
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from error
    missing = next((pair.image for pair in pairs if not pair.image.is_file()), None)
    if missing is not None:
        raise Mistake(f"{missing}: no such file (in {table})")
    return pairs


def _rows(table: Path) -> list[tuple[str, Mapping[str, object]]]:
    import json

    from clipguide.data.tables import DELIMITERS, read_table
    from clipguide.texts import read_text, split_lines

    text, suffix = read_text(table), table.suffix.lower()
    if suffix in DELIMITERS:
        names, rows = read_table(text, DELIMITERS[suffix])
        return [(place, dict(zip(names, cells, strict=True))) for place, cells in rows]
    if suffix not in (".jsonl", ".ndjson"):
        raise ValueError(f"got {suffix or 'no ending'}, expected .tsv, .csv or .jsonl")
    found: list[tuple[str, Mapping[str, object]]] = []
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            try:
                value: Any = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(value, dict):
                raise ValueError(f"line {number}: got {line.strip()[:40]}, expected an object")
            found.append((f"line {number}", cast("dict[str, object]", value)))
    return found


def _pair(place: str, row: Mapping[str, object], folder: Path) -> Pair:
    prompt, image = _cell(place, row, PROMPTS), _cell(place, row, IMAGES)
    return Pair(prompt, folder / image)


def _cell(place: str, row: Mapping[str, object], names: Sequence[str]) -> str:
    for name in names:
        value = next((value for key, value in row.items() if key.lower() == name), None)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if value is not None:
            raise ValueError(f"{place}: got {name} {value!r}, expected some text")
    got = ", ".join(row) or "none"
    raise ValueError(f"{place}: got columns {got}, expected prompt and image")
