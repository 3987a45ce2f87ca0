"""Which shape of the scene world is a blob: templates drawn by the renderer's own ``coverage``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import cycle
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray

from clipguide.data.scenes import SHAPES, coverage
from clipguide.evaluation.components import Mask

REACH = 1.35
"""No shape extends further than this many radii from its centre, along x or y."""
MIN_RADIUS, MAX_RADIUS = 5.0, 60.0
STEPS_PER_PIXEL = 2
"""Templates exist at radii and centres on a grid of half pixels."""
CLOSE = 0.12
"""Refining moves no overlap of the world's shapes by more than this."""

Float = NDArray[np.float32]
Steps = tuple[int, int, int]
MOVES: tuple[Steps, ...] = ((0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0))


@dataclass(frozen=True)
class Fit:
    """The best placement of one shape: centre and radius in pixels, ``iou`` in [0, 1].

    ``stretch`` is how much wider than high the blob is, over the same of the shape: 1 undistorted.
    """

    shape: str
    x: float
    y: float
    radius: float
    iou: float
    stretch: float


def match_shape(mask: Mask) -> tuple[Fit, Fit]:
    """The best-fitting shape of ``mask`` and the runner-up, by intersection over union.

    Each shape starts where its own area and centroid put it; the best two, and any close to
    them, are then refined by half-pixel steps of centre and radius until nothing improves.

    Args:
        mask: (H, W) bool with at least one pixel.

    Example:
        >>> from clipguide.data.scenes import render_array, sample_scene
        >>> match_shape(render_array(sample_scene(1, count=1)).min(axis=2) < 160)[0].iou > 0.9
        True
    """
    ys, xs = np.nonzero(mask)
    if len(ys) == 0:
        raise ValueError("mask: got an empty mask, expected at least one pixel")
    blob = _Blob(mask, ys, xs)
    starts = sorted((_start(blob, shape) for shape in SHAPES), key=lambda fit: -fit.iou)
    hopeful = starts[:2] + [fit for fit in starts[2:] if fit.iou > starts[0].iou - CLOSE]
    best, second, *_ = sorted((_refine(blob, fit) for fit in hopeful), key=lambda fit: -fit.iou)
    return best, second


class _Blob:
    """A mask on a canvas with room for templates that reach beyond it."""

    def __init__(self, mask: Mask, ys: NDArray[np.intp], xs: NDArray[np.intp]) -> None:
        self.area = len(ys)
        self.x, self.y = float(xs.mean()) + 0.5, float(ys.mean()) + 0.5
        self.top, self.left = int(ys.min()), int(xs.min())
        bottom, right = int(ys.max()) + 1, int(xs.max()) + 1
        self.values = mask[self.top : bottom, self.left : right].astype(np.float32)
        self.aspect = (right - self.left) / (bottom - self.top)

    def iou(self, shape: str, x: int, y: int, radius: int) -> float:
        """Intersection over union with a template; x, y and radius in template steps."""
        whole_x, part_x = divmod(x, STEPS_PER_PIXEL)
        whole_y, part_y = divmod(y, STEPS_PER_PIXEL)
        template, total = _template(shape, radius, part_x, part_y)
        reach = template.shape[0] // 2
        left, top = whole_x - reach - self.left, whole_y - reach - self.top
        height, width = self.values.shape
        blob = self.values[max(0, top) : top + 2 * reach, max(0, left) : left + 2 * reach]
        part = template[max(0, -top) : height - top, max(0, -left) : width - left]
        if blob.size == 0 or part.size == 0:
            return 0.0
        shared = float(np.einsum("ij,ij->", blob, part))
        return shared / (self.area + total - shared)


@lru_cache(maxsize=4096)
def _template(shape: str, radius: int, part_x: int, part_y: int) -> tuple[Float, float]:
    """Coverage of a shape whose centre lies (part_x, part_y) steps past the middle, and its sum."""
    size = radius / STEPS_PER_PIXEL
    reach = ceil(REACH * size) + 2
    ticks = np.arange(-reach, reach, dtype=np.float64) + 0.5
    xs, ys = np.meshgrid(ticks - part_x / STEPS_PER_PIXEL, ticks - part_y / STEPS_PER_PIXEL)
    values = coverage(shape, size, xs, ys).astype(np.float32)
    return values, float(values.sum())


@dataclass(frozen=True)
class _Outline:
    """A shape's area over radius squared, its centroid in radii, its width over its height."""

    area: float
    x: float
    y: float
    aspect: float


@cache
def _outline(shape: str) -> _Outline:
    ticks = np.arange(-140, 140, dtype=np.float64) + 0.5
    weights = coverage(shape, 100.0, *np.meshgrid(ticks, ticks))
    total = float(weights.sum())
    columns, rows = weights.sum(axis=0), weights.sum(axis=1)
    x, y = float(columns @ ticks) / total, float(rows @ ticks) / total
    aspect = np.count_nonzero(columns) / np.count_nonzero(rows)
    return _Outline(total / 100.0**2, x / 100.0, y / 100.0, aspect)


def _start(blob: _Blob, shape: str) -> Fit:
    outline = _outline(shape)
    radius = min(max(sqrt(blob.area / outline.area), MIN_RADIUS), MAX_RADIUS)
    x, y, size = (
        floor(value * STEPS_PER_PIXEL + 0.5)
        for value in (blob.x - outline.x * radius, blob.y - outline.y * radius, radius)
    )
    return _fit(blob, shape, (x, y, size), blob.iou(shape, x, y, size))


def _fit(blob: _Blob, shape: str, at: Steps, iou: float) -> Fit:
    x, y, radius = (value / STEPS_PER_PIXEL for value in at)
    return Fit(shape, x, y, radius, iou, blob.aspect / _outline(shape).aspect)


def _refine(blob: _Blob, fit: Fit) -> Fit:
    """Hill climbing along one axis at a time from ``fit``, until a step along none improves."""
    low, high = MIN_RADIUS * STEPS_PER_PIXEL, MAX_RADIUS * STEPS_PER_PIXEL
    x, y, radius = (round(v * STEPS_PER_PIXEL) for v in (fit.x, fit.y, fit.radius))
    at, best, stuck = (x, y, radius), fit.iou, 0
    moves = cycle(MOVES)
    while stuck < len(MOVES):
        move = next(moves)
        tried = (at[0] + move[0], at[1] + move[1], at[2] + move[2])
        iou = blob.iou(fit.shape, *tried) if low <= tried[2] <= high else 0.0
        stuck = 0 if iou > best else stuck + 1
        if iou > best:
            at, best = tried, iou
    return _fit(blob, fit.shape, at, best)
