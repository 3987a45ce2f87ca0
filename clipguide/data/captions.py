"""Captions of images from a file: TSV, CSV or JSON, with columns named `image` and `caption`."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

COLUMNS = ("image", "caption")
DELIMITERS = {".tsv": "\t", ".csv": ","}
MAX_FIELD = 1_000_000  # characters of one cell


@dataclass(frozen=True)
class Caption:
    """A text and the file name (or relative path) of the image it belongs to."""

    image: str
    text: str


class CaptionError(ValueError):
    """A captions file that cannot be used: `str(error)` names the file, the place, the reason."""


def read_captions(path: str | os.PathLike[str]) -> list[Caption]:
    """Every caption of a file, in its order.

    `.tsv` and `.csv`: a header with the columns `image` and `caption` (others are ignored).
    `.json`: `[{"image": ..., "caption": ...}, ...]` or `{image: caption or [captions], ...}`.
    `.jsonl`: one such object per line.

    Raises: CaptionError for another suffix, a missing column, an empty cell, a file without any.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in (*DELIMITERS, ".json", ".jsonl"):
        raise CaptionError(f"{file}: got suffix {suffix!r}, expected .tsv, .csv, .json or .jsonl")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CaptionError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    try:
        rows = _rows(text, suffix)
        captions = [_caption(row, place) for place, row in rows]
    except (csv.Error, ValueError, RecursionError) as error:
        raise CaptionError(f"{file}: {error}") from error
    if not captions:
        raise CaptionError(f"{file}: no captions in it")
    return captions


def match_captions(
    captions: Sequence[Caption], files: Sequence[Path], roots: Sequence[Path]
) -> tuple[dict[Path, list[str]], list[str]]:
    """The texts of each file, and the images named in the captions that are not among the files.

    An image is matched by its path as given, by its path below a root, or else by its bare name
    where only one file has it.
    """
    known: dict[str, Path | None] = {}
    for file in files:
        for name in _names(file, roots):
            known[name] = file if name not in known or known[name] == file else None
    texts: dict[Path, list[str]] = {}
    absent: dict[str, None] = {}
    for caption in captions:
        match = known.get(Path(caption.image).as_posix())
        if match is None:
            absent[caption.image] = None
        else:
            texts.setdefault(match, []).append(caption.text)
    return texts, list(absent)


def _names(file: Path, roots: Iterable[Path]) -> set[str]:
    below = {file.relative_to(root).as_posix() for root in roots if file.is_relative_to(root)}
    return {file.as_posix(), file.name, *below} - {"."}


def _rows(text: str, suffix: str) -> Sequence[tuple[str, object]]:
    if suffix in DELIMITERS:
        return _table_rows(text, DELIMITERS[suffix])
    return _json_rows(text, suffix)


def _table_rows(text: str, delimiter: str) -> list[tuple[str, Mapping[str, object]]]:
    csv.field_size_limit(MAX_FIELD)
    # in a TSV a quote is a letter like any other
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, quoting=quoting)
    names = reader.fieldnames or []
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise ValueError(f"got columns {', '.join(names) or 'none'}, expected image and caption")
    return [(f"line {reader.line_num}", cast("Mapping[str, object]", row)) for row in reader]


def _json_rows(text: str, suffix: str) -> list[tuple[str, object]]:
    if suffix == ".jsonl":
        lines = [(f"line {i}", line) for i, line in enumerate(text.splitlines(), 1)]
        return [(place, json.loads(line)) for place, line in lines if line.strip()]
    value: object = json.loads(text)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        pairs = [(k, c) for k, v in items for c in (v if isinstance(v, list) else [v])]
        return [(f"image {k!r}", {"image": k, "caption": c}) for k, c in pairs]
    if not isinstance(value, list):
        raise ValueError("expected a list of objects, or an object of images")
    return [(f"entry {i}", row) for i, row in enumerate(cast("list[object]", value), 1)]


def _caption(row: object, place: str) -> Caption:
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: expected an object with image and caption")
    cells = cast("Mapping[str, object]", row)
    for column in COLUMNS:
        cell = cells.get(column)
        if not isinstance(cell, str) or not cell.strip():
            raise ValueError(f"{place}: got {column} {cell!r}, expected a text")
    return Caption(str(cells["image"]).strip(), str(cells["caption"]).strip())
