"""What is in a picture of the scene world: classical vision, no weights, no network.

Every background of the world is light (its darkest channel is above 200) and every object has a
dark channel (at most 110, striped or not), so the darkest channel separates them; hue names the
colour, a template drawn by the renderer the shape, the brightness folded over the stripe period the
fill.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipguide.data.scenes import COLORS, IMAGE_SIZE, STRIPE_PERIOD
from clipguide.evaluation.components import Mask, dilate, erode, label_components
from clipguide.evaluation.shape_match import Fit, match_shape

if TYPE_CHECKING:
    from torch import Tensor

FOREGROUND_BELOW = 160
"""A pixel whose darkest channel is below this belongs to an object."""
MIN_AREA = 50
"""Smaller blobs (pixels) are specks, not objects; the smallest object of the world has 250."""
MIN_IOU = 0.75
"""A blob that no shape's template overlaps by this much has no shape."""
MIN_MARGIN = 0.03
"""By how much the best template's overlap must exceed the second best shape's."""
MIN_PURITY = 0.8
"""The part of a blob's votes its colour must have; below, the blob is several colours."""
MIN_CHROMA = 25
MAX_HUE_ERROR = 28.0
"""Degrees: a pixel further from every colour's hue has no colour."""
MAX_COLOR_ERROR = 120.0
"""RGB distance of a blob's light pixels from its colour: brown is no orange, though of its hue."""
LARGE_FROM = 19.0
"""Radius from which an object is large: half-way between the largest small and smallest large."""
STRIPED_BELOW = 0.75
"""Brightness of the dark half of the stripe period over the light half; 0.45 as drawn."""

NAMES = tuple(COLORS)
NO_COLOR = len(NAMES)
Pixels: TypeAlias = NDArray[np.uint8]
ImageLike: TypeAlias = "Image.Image | NDArray[np.uint8] | Tensor"


@dataclass(frozen=True)
class Seen:
    """One thing found. ``bbox`` is left, top, right, bottom; lengths are in pixels of 128.

    ``color`` is None for several colours or none of the world's, ``shape`` where no template fits.
    ``iou`` is the best template's overlap, ``margin`` its lead over the second best, ``purity`` the
    share of the leading colour, all in [0, 1].
    """

    color: str | None
    shape: str | None
    size: str
    fill: str
    x: float
    y: float
    radius: float
    bbox: tuple[int, int, int, int]
    area: int
    iou: float
    margin: float
    purity: float

    @property
    def confidence(self) -> float:
        """How well the blob is one object of one colour, in [0, 1]."""
        return self.iou * self.purity

    def __str__(self) -> str:
        look = f"{self.size} {self.fill} {self.color or 'odd-coloured'} {self.shape or 'blob'}"
        return f"{look} at ({self.x:.0f}, {self.y:.0f})"


def see(image: ImageLike) -> list[Seen]:
    """The objects in ``image``, largest first.

    Args:
        image: PIL, (H, W, 3) uint8, or a float tensor (3, H, W) or (1, 3, H, W) in [0, 1]; sizes
            other than 128 x 128 are resized.

    Raises:
        ValueError: an array or tensor of another shape, type or range.

    Example:
        >>> from clipguide.data.scenes import render, sample_scene
        >>> [thing.shape for thing in see(render(sample_scene(3, count=1)))]
        ['ring']
    """
    pixels = to_pixels(image)  # (128, 128, 3)
    darkest = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
    colors = _color_table()[_color_index(pixels)]  # (128, 128)
    votes = np.maximum(FOREGROUND_BELOW - darkest.astype(np.float32), 0.0)  # edges count for less
    found = [
        _describe(pixels, colors, votes, blob, fits)
        for piece in _pieces(darkest < FOREGROUND_BELOW)
        for part in _split_by_color(piece, colors, votes)
        for blob, fits in _split_at_necks(part)
    ]
    return sorted(found, key=lambda thing: -thing.area)


def to_pixels(image: ImageLike) -> Pixels:
    """``image`` as (128, 128, 3) uint8; see :func:`see` for what is accepted."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image if isinstance(image, np.ndarray) else _from_tensor(image))
    image = image.convert("RGB")
    if image.size != (IMAGE_SIZE, IMAGE_SIZE):
        image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _from_tensor(image: Tensor) -> Pixels:
    values: NDArray[np.float32] = image.detach().float().cpu().numpy()
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim != 3 or len(values) != 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected (3, H, W)")
    if not (values.min() >= 0.0 and values.max() <= 1.0):
        raise ValueError(f"image: got {values.min()} to {values.max()}, expected 0 to 1")
    return np.rint(values.transpose(1, 2, 0) * 255.0).astype(np.uint8)


# --- blobs ---------------------------------------------------------------------------------------


def _pieces(mask: Mask) -> list[Mask]:
    """The connected components of at least ``MIN_AREA`` pixels."""
    labels, _ = label_components(mask)
    areas = np.bincount(labels.ravel())
    return [labels == label for label in range(1, len(areas)) if areas[label] >= MIN_AREA]


def _split_by_color(
    piece: Mask, colors: NDArray[np.int8], votes: NDArray[np.float32]
) -> list[Mask]:
    """Touching objects of different colours, apart; a blob of one colour as it is."""
    if _shares(piece, colors, votes).max() >= MIN_PURITY:
        return [piece]
    parts = [part for color in range(NO_COLOR + 1) for part in _pieces(piece & (colors == color))]
    return parts or [piece]


def _split_at_necks(piece: Mask) -> list[tuple[Mask, tuple[Fit, Fit]]]:
    """Objects of one colour that touch at a corner, apart, if that gives each a shape."""
    whole = [(piece, match_shape(piece))]
    if has_shape(*whole[0][1]):
        return whole
    thin = erode(erode(piece))
    parts = [dilate(dilate(dilate(part))) & piece for part in _pieces(thin)]
    fitted = [(part, match_shape(part)) for part in parts]
    if len(fitted) > 1 and all(has_shape(*fits) for _, fits in fitted):
        return fitted
    return whole


def has_shape(best: Fit, second: Fit) -> bool:
    """Whether the best template overlaps enough, and enough more than the next."""
    return best.iou >= MIN_IOU and best.iou - second.iou >= MIN_MARGIN


# --- attributes ----------------------------------------------------------------------------------


def _describe(
    pixels: Pixels,
    colors: NDArray[np.int8],
    votes: NDArray[np.float32],
    blob: Mask,
    fits: tuple[Fit, Fit],
) -> Seen:
    best, second = fits
    ys, xs = np.nonzero(blob)
    shares = _shares(blob, colors, votes)
    inner = erode(blob)
    rows, light = _brightness(pixels, inner if inner.any() else blob)
    color = NAMES[int(shares.argmax())] if shares.max() >= MIN_PURITY else None
    if color is not None and np.linalg.norm(light - np.array(COLORS[color])) > MAX_COLOR_ERROR:
        color = None
    return Seen(
        color=color,
        shape=best.shape if has_shape(best, second) else None,
        size="large" if best.radius >= LARGE_FROM else "small",
        fill="striped" if rows < STRIPED_BELOW else "plain",
        x=best.x,
        y=best.y,
        radius=best.radius,
        bbox=(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1),
        area=len(ys),
        iou=best.iou,
        margin=best.iou - second.iou,
        purity=float(shares.max()),
    )


def _shares(
    blob: Mask, colors: NDArray[np.int8], votes: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Each colour's part of the blob's votes, (8,)."""
    counts = np.bincount(colors[blob], weights=votes[blob], minlength=NO_COLOR + 1)
    return counts[:NO_COLOR] / max(float(counts.sum()), 1.0)


def _brightness(pixels: Pixels, blob: Mask) -> tuple[float, NDArray[np.float64]]:
    """Dark over light half of the stripe period, whatever its phase; mean RGB of the light half."""
    ys = np.nonzero(blob)[0] % STRIPE_PERIOD
    inside = pixels[blob].astype(np.float64)  # (N, 3)
    counts = np.bincount(ys, minlength=STRIPE_PERIOD)  # (8,)
    sums = np.stack([np.bincount(ys, inside[:, c], STRIPE_PERIOD) for c in range(3)], axis=1)
    half = STRIPE_PERIOD // 2
    phases = (np.arange(STRIPE_PERIOD)[:, None] + np.arange(half)) % STRIPE_PERIOD  # (8, 4)
    means = sums[phases].sum(axis=1) / np.maximum(counts[phases].sum(axis=1), 1)[:, None]  # (8, 3)
    totals = means.sum(axis=1)
    lightest = int(totals.argmax())
    ratio = totals[(lightest + half) % STRIPE_PERIOD] / max(totals[lightest], 1.0)
    return float(ratio), means[lightest]


# --- colours -------------------------------------------------------------------------------------


def _color_index(pixels: Pixels) -> NDArray[np.int32]:
    """Where each pixel stands in the table: six bits of each channel."""
    high = (pixels >> 2).astype(np.int32)
    return (high[..., 0] << 12) | (high[..., 1] << 6) | high[..., 2]


@cache
def _color_table() -> NDArray[np.int8]:
    """The colour (index into ``NAMES``) of every RGB value of six bits, by the nearest hue."""
    levels = np.arange(64, dtype=np.float64) * 4.0 + 2.0
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    wanted = _hue(np.array(list(COLORS.values()), dtype=np.float64))  # (8,)
    error = np.abs((_hue(rgb)[:, None] - wanted + 180.0) % 360.0 - 180.0)  # (64**3, 8)
    nearest = error.argmin(axis=1)
    chroma = rgb.max(axis=1) - rgb.min(axis=1)
    named = (error.min(axis=1) <= MAX_HUE_ERROR) & (chroma >= MIN_CHROMA)
    return np.where(named, nearest, NO_COLOR).astype(np.int8)


def _hue(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
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
