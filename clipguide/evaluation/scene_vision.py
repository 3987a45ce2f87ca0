"""What is in a picture of the scene world: classical vision, no weights, no network.

Every background of the world is light (its darkest channel is above 200) and every object has a
dark channel (at most 110, striped or not), so the darkest channel separates them; hue names the
colour, a template drawn by the renderer the shape, the brightness folded over the stripe period the
fill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipguide.data.scenes import COLORS, IMAGE_SIZE, STRIPE_PERIOD
from clipguide.evaluation.components import Mask, dilate, erode, label_components
from clipguide.evaluation.scene_colors import (
    BACKGROUND,
    DARKEST,
    FOREGROUND_BELOW,
    NAMES,
    NO_COLOR,
    PALETTE,
    hue,
    name_colors,
)
from clipguide.evaluation.shape_match import Fit, match_shape

if TYPE_CHECKING:
    from torch import Tensor

SHORTEST = 64
"""Pixels of the shorter side that are looked at, at least."""
MIN_AREA = 50
"""Smaller blobs (pixels) are specks, not objects; the smallest object of the world has 250."""
MIN_IOU = 0.78
"""A blob that no shape's template overlaps by this much has no shape."""
MIN_MARGIN = 0.02
"""By how much the best template's overlap must exceed the second best shape's."""
MAX_STRETCH = 1.22
"""A blob that is wider or higher than the shape by more is two that merged, or another shape."""
MIN_PURITY = 0.85
"""The part of a blob its colour must have; below, the blob is of several colours."""
EDGE = 0.35
"""Pixels covered by less name no colour: nothing darker than a background counts as that much."""
MAX_COLOR_ERROR = 120.0
"""RGB distance of a blob's light pixels from its colour: brown is no orange, though of its hue."""
LARGE_FROM = 19.0
"""Radius from which an object is large: half-way between the largest small and smallest large."""
STRIPED_BELOW = 0.85
"""Brightness of the dark half of the stripe period over the light half; 0.45 as drawn."""

Pixels: TypeAlias = NDArray[np.uint8]
ImageLike: TypeAlias = "Image.Image | NDArray[np.uint8] | Tensor"


@dataclass(frozen=True)
class DetectedObject:
    """One thing found. ``bbox`` is left, top, right, bottom; lengths are in pixels of 128.

    ``color`` is None for several colours or none of the world's, ``shape`` where no template fits.
    ``iou`` is the best template's overlap, ``margin`` its lead over the second best, ``purity`` the
    share of the leading colour (in stripes: of it and its neighbours in hue), all in [0, 1].
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


def detect_objects(image: ImageLike) -> list[DetectedObject]:
    """The objects in ``image``, largest first.

    Args:
        image: PIL, (H, W, 3) uint8, or a float tensor (3, H, W) or (1, 3, H, W) in [0, 1]; other
            sizes than 128 x 128, from 64 pixels a side, are resized without distortion.

    Raises:
        ValueError: an array or tensor of another shape, type or range.

    Example:
        >>> from clipguide.data.scenes import render, sample_scene
        >>> [thing.shape for thing in detect_objects(render(sample_scene(3, count=1)))]
        ['star']
    """
    view = _View(to_pixels(image))
    found = [
        _describe(view, blob, fits)
        for piece in _pieces(view.foreground)
        for part in _split_by_color(view, piece)
        for blob, fits in _split_at_necks(part)
    ]
    return sorted(found, key=lambda thing: -thing.area)


def to_pixels(image: ImageLike) -> Pixels:
    """``image`` as (H, W, 3) uint8; see :func:`detect_objects` for what is accepted.

    Both sides are scaled alike, or a star would be no star: the longest becomes 128 pixels, as in a
    crop of a scene, unless the shorter would then have too few to tell shapes by.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            shape = f"{image.dtype} of shape {image.shape}"
            raise ValueError(f"image: got {shape}, expected uint8 (H, W, 3)")
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        image = Image.fromarray(_from_tensor(image))
    image = image.convert("RGB")
    scale = max(IMAGE_SIZE / max(image.size), SHORTEST / min(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))


def _from_tensor(image: Tensor) -> Pixels:
    values: NDArray[np.float32] = image.detach().float().cpu().numpy()
    values = values[0] if values.ndim == 4 and len(values) == 1 else values
    if values.ndim != 3 or len(values) != 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}, expected (3, H, W)")
    if not (values.min() >= 0.0 and values.max() <= 1.0):
        raise ValueError(f"image: got {values.min()} to {values.max()}, expected 0 to 1")
    return np.rint(values.transpose(1, 2, 0) * 255.0).astype(np.uint8)


# --- blobs --------------------------------------------------------------------------------------


class _View:
    """An image and what is computed of every pixel once."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels  # (H, W, 3)
        self.colors = name_colors(pixels)  # (H, W)
        self.darkest = np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])
        self.foreground = self.darkest < FOREGROUND_BELOW[self.colors]


def _pieces(mask: Mask) -> list[Mask]:
    """The connected components of at least ``MIN_AREA`` pixels."""
    labels, _ = label_components(mask)
    areas = np.bincount(labels.ravel())
    return [labels == label for label in range(1, len(areas)) if areas[label] >= MIN_AREA]


def _split_by_color(view: _View, piece: Mask) -> list[Mask]:
    """Touching objects of different colours, apart; a blob of one colour as it is."""
    if _paint(view, piece).color is not None:
        return [piece]
    kinds = range(NO_COLOR + 1)
    parts = [part for kind in kinds for part in _pieces(piece & (view.colors == kind))]
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
    """Whether the best template overlaps enough, and enough more than the next, undistorted."""
    clear = best.iou >= MIN_IOU and best.iou - second.iou >= MIN_MARGIN
    return clear and max(best.stretch, 1.0 / best.stretch) <= MAX_STRETCH


# --- attributes ---------------------------------------------------------------------------------


def _describe(view: _View, blob: Mask, fits: tuple[Fit, Fit]) -> DetectedObject:
    best, second = fits
    paint = _paint(view, blob)
    ys, xs = np.nonzero(blob)
    return DetectedObject(
        color=paint.color,
        shape=best.shape if has_shape(best, second) else None,
        size="large" if best.radius >= LARGE_FROM else "small",
        fill="striped" if paint.striped else "plain",
        x=best.x,
        y=best.y,
        radius=best.radius,
        bbox=(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1),
        area=len(ys),
        iou=best.iou,
        margin=best.iou - second.iou,
        purity=paint.purity,
    )


@dataclass(frozen=True)
class _Paint:
    color: str | None
    purity: float
    striped: bool


def _paint(view: _View, blob: Mask) -> _Paint:
    """Colour and fill of a blob.

    Autoencoders and JPEG shift the hue of narrow bands, not their mean: stripes are of one colour
    if their mean is, and most of them is of that colour or its two neighbours in hue.
    """
    shares = _shares(view, blob)
    inner = erode(blob)
    pixels = view.pixels[inner], np.nonzero(inner)[0]
    if len(pixels[1]) == 0:
        pixels = view.pixels[blob], np.nonzero(blob)[0]
    ratio, light = _fold(*pixels)
    striped = ratio < STRIPED_BELOW
    if striped and shares.max() < MIN_PURITY:
        mean = pixels[0].mean(axis=0).astype(np.uint8)
        shares = _neighbourly(shares, int(name_colors(mean)))
    place = int(shares.argmax())
    error = float(np.linalg.norm(light - np.array(COLORS[NAMES[place]])))
    named = shares[place] >= MIN_PURITY and error <= MAX_COLOR_ERROR
    return _Paint(NAMES[place] if named else None, float(shares[place]), striped)


def _shares(view: _View, blob: Mask) -> NDArray[np.float64]:
    """Each colour's part of the blob, (8,); a pixel counts by how much of it the object covers."""
    colors = view.colors[blob]
    weights = (BACKGROUND - view.darkest[blob]) / (BACKGROUND - DARKEST[colors])  # about coverage
    counts = np.bincount(colors, weights=weights - EDGE, minlength=NO_COLOR + 1)
    return counts[:NO_COLOR] / max(float(counts.sum()), 1e-9)


def _neighbourly(shares: NDArray[np.float64], color: int) -> NDArray[np.float64]:
    """The shares of ``color`` and of its two neighbours in hue, all given to it."""
    gathered = np.zeros_like(shares)
    if color != NO_COLOR:
        order = np.argsort(hue(PALETTE))
        place = int(np.flatnonzero(order == color)[0])
        near = order[[place - 1, place, (place + 1) % len(order)]]
        gathered[color] = shares[near].sum()
    return gathered


def _fold(inside: Pixels, ys: NDArray[np.intp]) -> tuple[float, NDArray[np.float64]]:
    """Dark over light half of the stripe period, whatever its phase; mean RGB of the light half."""
    rows = ys % STRIPE_PERIOD
    counts = np.bincount(rows, minlength=STRIPE_PERIOD)  # (8,)
    sums = np.stack([np.bincount(rows, inside[:, c], STRIPE_PERIOD) for c in range(3)], axis=1)
    half = STRIPE_PERIOD // 2
    phases = (np.arange(STRIPE_PERIOD)[:, None] + np.arange(half)) % STRIPE_PERIOD  # (8, 4)
    means = sums[phases].sum(axis=1) / np.maximum(counts[phases].sum(axis=1), 1)[:, None]  # (8, 3)
    totals = means.sum(axis=1)
    lightest = int(totals.argmax())
    ratio = totals[(lightest + half) % STRIPE_PERIOD] / max(totals[lightest], 1.0)
    return float(ratio), means[lightest]
