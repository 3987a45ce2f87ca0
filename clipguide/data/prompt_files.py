"""Prompts from a file: a line each, or a column of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from clipguide.data.tables import DELIMITERS, read_table
from clipguide.texts import check_text, decode, split_lines

COLUMNS = ("prompt", "caption", "text")
"""The column or key that holds the prompt: the first of these that is there."""


def read_prompts(file: Path, data: bytes | None = None) -> list[str]:
    """The prompts of a file in its order, repeated ones too.

    `.tsv` and `.csv`: a header with one of `COLUMNS`; `.jsonl`, `.ndjson`: an object with one of
    them, or a text, on each line; any other file: a prompt on each line that is not blank.

    Args:
        file: its path; only its suffix counts where `data` is given.
        data: the bytes (of stdin).

    Raises:
        ValueError: it cannot be read, has no such column, or has no prompts; it names the place.
    """
    try:
        text = decode(file.read_bytes() if data is None else data)
        found = _prompts(text, file.suffix.lower())
        for place, prompt in found:
            if not prompt.strip():
                raise ValueError(f"{place}: got an empty prompt, expected a text")
            check_text(prompt, f"{place}: prompt")
        if not found:
            raise ValueError("no prompts in it")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file}: {reason}") from error
    return [prompt.strip() for _, prompt in found]


def _prompts(text: str, suffix: str) -> list[tuple[str, str]]:
    if suffix in DELIMITERS:
        names, rows = read_table(text, DELIMITERS[suffix])
        column = names.index(_column(names))
        return [(place, cells[column]) for place, cells in rows]
    lines = [
        (f"line {number}", line.strip())
        for number, line in enumerate(split_lines(text), 1)
        if line.strip()
    ]
    if suffix in (".jsonl", ".ndjson"):
        return [(place, _of_json(place, line)) for place, line in lines]
    if suffix == ".json":
        raise ValueError("got .json, expected .jsonl, .tsv, .csv or lines of text")
    return lines


def _of_json(place: str, line: str) -> str:
    try:
        value: object = json.loads(line)
        if isinstance(value, Mapping):
            row = cast("Mapping[str, object]", value)
            value = row[_column([*row])]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from error
    if not isinstance(value, str):
        raise ValueError(f"{place}: got prompt {value!r}, expected a text")
    return value


def _column(names: list[str]) -> str:
    for name in COLUMNS:
        if name in names:
            return name
    got = ", ".join(names) or "none"
    raise ValueError(f"got columns {got}, expected one of {', '.join(COLUMNS)}")
