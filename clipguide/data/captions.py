"""Captions of images from a file, in the shapes people have them in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clipguide.data.tables import DELIMITERS, read_table
from clipguide.texts import check_text, read_text, split_lines

SUFFIXES = (*DELIMITERS, ".json", ".jsonl", ".ndjson")
COLUMNS = (("image", "caption"), ("file_name", "text"), ("file", "prompt"))
"""Names of the two columns, the first pair that is there: ours, Hugging Face's imagefolder, and
results.jsonl of `clipguide generate`."""
_SPACE = " \t\r\n"

LocatedRow = tuple[str, object]  # where in the file, and the row there


@dataclass(frozen=True)
class Caption:
    """A text and the file name (or path) of the image it belongs to."""

    image: str
    text: str


class CaptionError(ValueError):
    """A captions file that cannot be used: `str(error)` names the file, the place, the reason."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns (or keys) of a row; None: the first of `COLUMNS` that is there."""

    image: str | None = None
    caption: str | None = None

    def of(self, names: Sequence[str]) -> tuple[str, str]:
        """The two that are among `names`. ValueError where they are not, or are there twice."""
        pairs = [(self.image or image, self.caption or caption) for image, caption in COLUMNS]
        for pair in pairs:
            if set(pair) <= set(names):
                twice = [name for name in pair if names.count(name) > 1]
                if twice:
                    raise ValueError(f"got two columns {twice[0]!r}, expected one")
                return pair
        expected = " or ".join(f"{image} and {text}" for image, text in dict.fromkeys(pairs))
        raise ValueError(
            f"got columns {', '.join(names) or 'none'}, expected {expected} (--image-column and "
            "--caption-column name others)"
        )


def read_captions(
    path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
) -> list[Caption]:
    r"""Every caption of a file, in its order.

    `.tsv` and `.csv`: a header with two of `COLUMNS` (others are ignored). In a CSV a cell with a
    quote, a comma or a line break stands in quotes, which are doubled inside (RFC 4180), and keeps
    its line breaks; in a TSV a quote is a letter like any other.
    `.jsonl`, `.ndjson`: an object with two of `COLUMNS` on each line; the caption may be a list.
    `.json`: a list of such objects; `{image: caption or [captions], ...}`; COCO's
    `{images, annotations}`; or Karpathy's `{images: [{filename, sentences: [{raw}]}]}`.
    UTF-8, or UTF-16 and UTF-32 with a byte-order mark. Rows end at \n, \r\n and \r alone.

    Args:
        path: the file.
        image_column, caption_column: names of the two columns where they are others.

    Raises:
        CaptionError: another suffix, a missing column, an empty cell, a row that does not fit the
            header, a quote that is not closed, a key that stands twice in one object, a text that
            is too long or not whole (`clipguide.texts.check_text`), a file without any caption.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        expected = f"expected {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise CaptionError(f"{file}: got suffix {suffix!r}, {expected}")
    try:
        text = read_text(file)
    except ValueError as error:
        raise CaptionError(str(error)) from error
    try:
        return parse_captions(text, suffix, Columns(image_column, caption_column))
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"{file}: {error}") from error


def parse_captions(text: str, suffix: str, columns: Columns | None = None) -> list[Caption]:
    """The captions of a file's text; `suffix`, one of `SUFFIXES`, says in what form they are.

    Raises:
        ValueError: as `read_captions`, without the file's name.
    """
    captions = [*_captions(text, suffix, columns or Columns())]
    if not captions:
        raise ValueError("no captions in it")
    return captions


def _captions(text: str, suffix: str, columns: Columns) -> Iterator[Caption]:
    if suffix in DELIMITERS:
        names, rows = read_table(text, DELIMITERS[suffix])
        pair = columns.of(names)
        for place, cells in rows:
            yield from _row_captions(place, dict(zip(names, cells, strict=True)), pair)
        return
    for place, row in _json_rows(text, suffix):
        if not isinstance(row, Mapping):
            raise ValueError(f"{place}: expected an object with image and caption")
        cells = cast("Mapping[str, object]", row)
        try:
            pair = columns.of([*cells])
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        yield from _row_captions(place, cells, pair)


def _row_captions(
    place: str, row: Mapping[str, object], pair: tuple[str, str]
) -> Iterator[Caption]:
    image, cell = row[pair[0]], row[pair[1]]
    name = _text(image, f"{place}: got {pair[0]}")
    if "\0" in name:
        raise ValueError(f"{place}: got {pair[0]} {image!r}, expected a file name")
    texts = cast("list[object]", cell) if isinstance(cell, list) else [cell]
    for text in texts:
        yield Caption(name, _text(text, f"{place}: got {pair[1]}"))


def _text(cell: object, found: str) -> str:
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError(f"{found} {cell!r}, expected a text")
    check_text(cell, found.partition(": got ")[0])
    return cell.strip(_SPACE)


# --- JSON ----------------------------------------------------------------------------------------


def _json_rows(text: str, suffix: str) -> Iterator[LocatedRow]:
    if suffix != ".json":
        for number, line in enumerate(split_lines(text), 1):
            if line.strip():
                yield f"line {number}", _parse(line, f"line {number}: ")
        return
    value = _parse(text)
    if isinstance(value, dict):
        yield from _object_rows(cast("dict[str, Any]", value))
    elif isinstance(value, list):
        rows = cast("list[object]", value)
        yield from ((f"entry {number}", row) for number, row in enumerate(rows, 1))
    else:
        raise ValueError("expected a list of objects, or an object of images")


def _parse(text: str, place: str = "") -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if place else f"line {error.lineno} column {error.colno}"
        raise ValueError(f"{place}{error.msg} ({where})") from error
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object; JSON itself would silently take the last of two equal keys."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"got the key {twice!r} twice in one object, expected once")
    return row


def _object_rows(value: dict[str, Any]) -> Iterator[LocatedRow]:
    images = value.get("images")
    if isinstance(images, list) and "annotations" in value:
        yield from _coco_rows(_objects(images, "image"), value["annotations"])
    elif isinstance(images, list) and any("sentences" in row for row in _maps(images)):
        yield from _karpathy_rows(_objects(images, "image"))
    else:
        for name, captions in value.items():
            yield f"image {name!r}", {"image": name, "caption": captions}


def _maps(rows: list[Any]) -> Iterator[Mapping[str, Any]]:
    return (cast("Mapping[str, Any]", row) for row in rows if isinstance(row, Mapping))


def _objects(rows: object, kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of a list, each with its place; ValueError for what is no object."""
    if not isinstance(rows, list):
        raise ValueError(f"expected a list of {kind}s")
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, row in enumerate(cast("list[object]", rows), 1):
        if not isinstance(row, Mapping):
            raise ValueError(f"{kind} {number}: expected an object")
        found.append((f"{kind} {number}", cast("Mapping[str, Any]", row)))
    return found


def _coco_rows(
    images: list[tuple[str, Mapping[str, Any]]], annotations: object
) -> Iterator[LocatedRow]:
    names: dict[object, object] = {}
    for place, row in images:
        key = _id(row.get("id"), f"{place}: got id")
        if key in names:
            raise ValueError(f"{place}: got id {key} twice, expected once")
        names[key] = row.get("file_name")
    for place, row in _objects(annotations, "annotation"):
        key = _id(row.get("image_id"), f"{place}: got image_id")
        if key not in names:
            raise ValueError(f"{place}: got image_id {key}, expected the id of an image")
        yield place, {"image": names[key], "caption": row.get("caption")}


def _id(value: object, found: str) -> object:
    """An id of COCO; 1, 1.0 and true would be one key of a dict."""
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise ValueError(f"{found} {value!r}, expected a number")
    return value


def _karpathy_rows(images: list[tuple[str, Mapping[str, Any]]]) -> Iterator[LocatedRow]:
    for place, row in images:
        name, folder = row.get("filename"), row.get("filepath")
        if isinstance(folder, str) and isinstance(name, str):
            name = f"{folder}/{name}"
        for _, sentence in _objects(row.get("sentences"), f"{place}: sentence"):
            yield place, {"image": name, "caption": sentence.get("raw")}
