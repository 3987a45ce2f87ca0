"""Prompts from a file: a line each, a column of a table, or a benchmark's own JSON.

PartiPrompts (TSV: Prompt, Category), DrawBench (lines, or CSV: Prompts, Category), GenEval (JSONL:
prompt, tag), GenEval 2 (JSONL: prompt, atom_count), T2I-CompBench (lines), captions of COCO and of
clipscore (JSON) are read as they come.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from clipguide.data.tables import DELIMITERS, read_table
from clipguide.images import SUFFIXES
from clipguide.texts import check_text, decode, split_lines

COLUMNS = ("prompt", "prompts", "caption", "text")
"""The column or key that holds the prompt, in any case: the first of these that is there."""
CATEGORIES = ("category", "tag", "atom_count")
"""The same for the category; a file need not have any."""


@dataclass(frozen=True)
class Prompt:
    """A text to draw, and what kind it is where its file says so."""

    text: str
    category: str = ""


def read_prompts(file: Path, data: bytes | None = None) -> list[str]:
    """The texts of `read_prompt_rows`."""
    return [prompt.text for prompt in read_prompt_rows(file, data)]


def read_prompt_rows(file: Path, data: bytes | None = None) -> list[Prompt]:
    """The prompts of a file in its order, repeated ones too.

    `.tsv` and `.csv`: a header with one of `COLUMNS`; `.jsonl`, `.ndjson`: an object with one of
    them, or a text, on each line; `.json`: a list of these, or captions of images in one of the
    forms of `clipguide.data.captions.read_captions`; any other file: a prompt on each line that is
    not blank.

    Args:
        file: its path; only its suffix counts where `data` is given.
        data: the bytes (of stdin).

    Raises:
        ValueError: it cannot be read, has no such column, or has no prompts; it names the place.
    """
    try:
        text = decode(file.read_bytes() if data is None else data)
        found = _prompts(text, file)
        for place, prompt in found:
            if not prompt.text.strip():
                raise ValueError(f"{place}: got an empty prompt, expected a text")
            check_text(prompt.text, f"{place}: prompt")
        if not found:
            raise ValueError("no prompts in it")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file}: {reason}") from error
    return [Prompt(prompt.text.strip(), prompt.category) for _, prompt in found]


Located = tuple[str, Prompt]  # where in the file, and what is there


def _prompts(text: str, file: Path) -> list[Located]:
    suffix = file.suffix.lower()
    if suffix in DELIMITERS:
        names, rows = read_table(text, DELIMITERS[suffix])
        _column(names)
        return [(place, _of_row(dict(zip(names, cells, strict=True)))) for place, cells in rows]
    if suffix == ".json":
        return _of_document(text, file)
    lines = [
        (f"line {number}", line.strip())
        for number, line in enumerate(split_lines(text), 1)
        if line.strip()
    ]
    if suffix in (".jsonl", ".ndjson"):
        return [(place, _of_value(place, _parse(line, place))) for place, line in lines]
    return [(place, Prompt(line)) for place, line in lines]


def _of_document(text: str, file: Path) -> list[Located]:
    value = _parse(text, "the file")
    if isinstance(value, list):
        rows = cast("list[object]", value)
        return [(f"entry {n}", _of_value(f"entry {n}", row)) for n, row in enumerate(rows, 1)]
    from clipguide.data.captions import parse_captions

    captions = parse_captions(text, ".json")
    for caption in captions:
        if PurePosixPath(caption.text).suffix.lower() in SUFFIXES:
            raise ValueError(f"got the picture {caption.text} for a text, expected prompts")
    return [(f"image {caption.image!r}", Prompt(caption.text)) for caption in captions]


def _parse(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from error


def _of_value(place: str, value: object) -> Prompt:
    """Of a line or an entry of JSON."""
    try:
        if isinstance(value, Mapping):
            return _of_row(cast("Mapping[str, object]", value))
        return Prompt(_text(value))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _of_row(row: Mapping[str, object]) -> Prompt:
    text = _text(row[_column([*row])])
    category = next((row[name] for name in row if name.lower() in CATEGORIES), "")
    return Prompt(text, str(category).strip())


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got prompt {value!r}, expected a text")
    return value


def _column(names: Sequence[str]) -> str:
    for wanted in COLUMNS:
        for name in names:
            if name.lower() == wanted:
                return name
    got = ", ".join(names) or "none"
    raise ValueError(f"got columns {got}, expected one of {', '.join(COLUMNS)}")
