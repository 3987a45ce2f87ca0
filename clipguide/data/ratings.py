"""People's ratings of captions for images: a TSV or CSV, as Flickr8k-Expert has them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clipguide.data.captions import CaptionError, read_captions
from clipguide.data.tables import DELIMITERS, read_table
from clipguide.texts import read_text


@dataclass(frozen=True)
class Rated:
    """A caption shown with an image, and what people thought of it; higher is better."""

    image: str
    text: str
    ratings: tuple[float, ...]


def read_ratings(
    path: str | os.PathLike[str], captions: str | os.PathLike[str]
) -> tuple[list[Rated], int]:
    """Every rated pair whose caption was not written for that image; how many pairs were.

    An image's own caption is right by construction, so such pairs are left out, as in the published
    figures (Hessel et al. 2021, section 4.1).

    Args:
        path: columns `image`, `caption_image` and `caption_index` (the caption is that image's
            caption number `caption_index` in `captions`, from 0), `rating1`, `rating2`, ...
        captions: see `read_captions`.

    Raises:
        CaptionError: a missing column or cell, a rating that is no number, a caption that is not
            there; or nothing left.
    """
    file = Path(path)
    texts: dict[str, list[str]] = {}
    for caption in read_captions(captions):
        texts.setdefault(caption.image, []).append(caption.text)
    rows, columns = _rows(file)
    rated: list[Rated] = []
    for place, row in rows:
        if row["image"] == row["caption_image"]:
            continue
        try:
            index = int(row["caption_index"])
            ratings = tuple(float(row[column]) for column in columns)
        except (TypeError, ValueError) as error:
            raise CaptionError(f"{file}: {place}: {error}") from error
        own = texts.get(row["caption_image"], [])
        if not 0 <= index < len(own):
            name = f"caption {index} of {row['caption_image']}"
            raise CaptionError(f"{file}: {place}: {name} is not in {captions}")
        rated.append(Rated(row["image"], own[index], ratings))
    if not rated:
        raise CaptionError(f"{file}: no rated pair of an image and another image's caption in it")
    return rated, len(rows) - len(rated)


def _rows(file: Path) -> tuple[list[tuple[str, dict[str, str]]], list[str]]:
    suffix = file.suffix.lower()
    if suffix not in DELIMITERS:
        raise CaptionError(f"{file}: got suffix {suffix!r}, expected .tsv or .csv")
    try:
        text = read_text(file)
    except ValueError as error:
        raise CaptionError(str(error)) from error
    try:
        names, found = read_table(text, DELIMITERS[suffix])
    except ValueError as error:
        raise CaptionError(f"{file}: {error}") from error
    rows = [(place, dict(zip(names, cells, strict=True))) for place, cells in found]
    columns = [name for name in names if name.startswith("rating")]
    if not columns or not {"image", "caption_image", "caption_index"} <= set(names):
        got = ", ".join(names) or "none"
        raise CaptionError(
            f"{file}: got columns {got}, expected image, caption_image, caption_index, rating1 ..."
        )
    return rows, columns
