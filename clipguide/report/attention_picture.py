"""Where a captioner looked for each word, over the photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from clipguide.report.contact_sheet import Picture, Tile, contact_sheet

_LEAST = 0.15
"""Of its brightness that is left of what was not looked at."""


def attention_sheet(
    photos: Sequence[tuple[str, Image.Image, Sequence[str], Tensor]],
) -> Image.Image:
    """A row a photo: itself, and for each word the photo lit where it was looked at.

    Args:
        photos: title, photo, words of its caption (T), and where each was seen, (T, h, w), 0 or
            more; each is scaled by its own largest value.
    """
    tiles = [
        Tile(title, (Picture(photo), *_lit(photo, words, places)))
        for title, photo, words, places in photos
    ]
    return contact_sheet(tiles, columns=1)


def _lit(photo: Image.Image, words: Sequence[str], places: Tensor) -> list[Picture]:
    pixels = np.asarray(photo.convert("RGB"), dtype=np.float32)
    found: list[Picture] = []
    for word, place in zip(words, places.float(), strict=True):
        shares = (place / place.max().clamp(min=1e-9)).cpu().numpy()
        light = Image.fromarray((shares * 255).astype(np.uint8))
        wide = np.asarray(light.resize(photo.size, Image.Resampling.BICUBIC), dtype=np.float32)
        lit = pixels * (_LEAST + (1 - _LEAST) * wide[..., None] / 255)
        found.append(Picture(Image.fromarray(lit.astype(np.uint8)), (word,)))
    return found
