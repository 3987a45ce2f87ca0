"""Captions by image, of candidates and of references, COCO's own files among them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clipguide.data.captions import CaptionError, read_captions
from clipguide.texts import read_text


@dataclass(frozen=True)
class CaptionSet:
    """Captions by image, in the file's order; by COCO's numbers too, where it has them."""

    by_image: Mapping[str, list[str]]
    by_id: Mapping[str, list[str]]


def read_caption_set(path: Path) -> CaptionSet:
    """The captions of a file by image: every form that `read_captions` takes, and COCO's results,
    a JSON list of `{"image_id": 9, "caption": "..."}`.

    Raises:
        CaptionError: as `read_captions`; a result without a number or a caption.
    """
    value = _json(path)
    if isinstance(value, list) and any("image_id" in row for row in _maps(value)):
        found: dict[str, list[str]] = {}
        for number, row in enumerate(cast("list[object]", value), 1):
            key, text = _result(path, number, row)
            found.setdefault(key, []).append(text)
        return CaptionSet({}, found)
    captions: dict[str, list[str]] = {}
    for caption in read_captions(path):
        captions.setdefault(caption.image, []).append(caption.text)
    names = _ids(value)
    return CaptionSet(captions, {key: captions[n] for key, n in names.items() if n in captions})


def paired(
    candidates: CaptionSet, references: CaptionSet
) -> tuple[dict[str, str], Mapping[str, list[str]]]:
    """Each candidate, and the references, by the same keys.

    Raises:
        ValueError: an image with two candidates, or without a reference.
    """
    mine, theirs = candidates.by_image, references.by_image
    if not mine:
        mine, theirs = candidates.by_id, references.by_id or references.by_image
    elif not references.by_image:
        mine, theirs = candidates.by_id or mine, references.by_id
    for image, texts in mine.items():
        if len(texts) > 1:
            raise ValueError(f"got {len(texts)} candidates of {image!r}, expected one of each")
        if image not in theirs:
            raise ValueError(f"got no reference caption of {image!r}, expected one or more")
    return {image: texts[0] for image, texts in mine.items()}, theirs


def _json(path: Path) -> object:
    """The value of a JSON file; None of another, or of one that `read_captions` will refuse."""
    if path.suffix.lower() != ".json":
        return None
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError):
        return None


def _maps(rows: object) -> Sequence[Mapping[str, Any]]:
    return [row for row in cast("list[Any]", rows) if isinstance(row, Mapping)]


def _result(path: Path, number: int, row: object) -> tuple[str, str]:
    cells = cast("Mapping[str, object]", row) if isinstance(row, Mapping) else {}
    key, text = cells.get("image_id"), cells.get("caption")
    if not isinstance(key, int | str) or isinstance(key, bool) or not isinstance(text, str):
        raise CaptionError(f"{path}: entry {number}: got {row!r}, expected image_id and caption")
    return str(key), text


def _ids(value: object) -> dict[str, str]:
    """COCO's numbers of images -> their file names."""
    if not isinstance(value, Mapping):
        return {}
    images = cast("Mapping[str, object]", value).get("images")
    if not isinstance(images, list):
        return {}
    rows = [row for row in _maps(images) if "id" in row and "file_name" in row]
    return {str(row["id"]): str(row["file_name"]) for row in rows}
