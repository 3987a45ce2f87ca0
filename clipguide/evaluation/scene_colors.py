"""The name of every pixel's colour, by its hue."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from clipguide.data.scenes import COLORS

NAMES = tuple(COLORS)
NO_COLOR = len(NAMES)
PALETTE = np.array(list(COLORS.values()), dtype=np.float64)  # (8, 3)
BACKGROUND = 228.0
"""The darkest channel of a typical background."""
DARKEST = np.append(PALETTE.min(axis=1), 40.0)
"""(9,) The darkest channel of each colour; last: of what has no colour."""
FOREGROUND_BELOW = np.append((DARKEST[:-1] + BACKGROUND) / 2.0 + 22.0, 160.0).astype(np.uint8)
"""(9,) A pixel of this colour whose darkest channel is below belongs to an object.

A little above half-way between the colour and the background, since autoencoders lighten narrow
bands: about 155, and 191 for pink, the lightest colour."""
MIN_CHROMA = 25
"""A pixel whose channels differ by less has no colour."""
MAX_HUE_ERROR = 28.0
"""Degrees: a pixel further from every colour's hue has no colour."""


def name_colors(pixels: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The place in ``NAMES`` of each pixel's colour, or ``NO_COLOR``: (..., 3) -> (...).

    Example:
        >>> NAMES[int(name_colors(np.array([112, 62, 9], dtype=np.uint8)))]
        'orange'
    """
    high = (pixels >> 2).astype(np.int32)  # six bits of each channel
    return _color_table()[(high[..., 0] << 12) | (high[..., 1] << 6) | high[..., 2]]


@cache
def _color_table() -> NDArray[np.int8]:
    """The colour of every RGB value of six bits, (64**3,)."""
    levels = np.arange(64, dtype=np.float64) * 4.0 + 2.0
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    error = np.abs((hue(rgb)[:, None] - hue(PALETTE) + 180.0) % 360.0 - 180.0)  # (64**3, 8)
    chroma = rgb.max(axis=1) - rgb.min(axis=1)
    named = (error.min(axis=1) <= MAX_HUE_ERROR) & (chroma >= MIN_CHROMA)
    return np.where(named, error.argmin(axis=1), NO_COLOR).astype(np.int8)


def hue(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """HSV hue in degrees, (N, 3) -> (N,); 0 for greys."""
    red, green, blue = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    high = rgb.max(axis=1)
    chroma = np.maximum(high - rgb.min(axis=1), 1e-9)
    sector = np.where(
        high == red,
        (green - blue) / chroma % 6.0,
        np.where(high == green, (blue - red) / chroma + 2.0, (red - green) / chroma + 4.0),
    )
    return sector * 60.0
