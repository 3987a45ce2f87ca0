"""The scene world of the starter model: coloured shapes with relations, drawn by our own renderer.

A scene holds one to three objects (colour, shape, size, fill, centre) on a plain or graded
background. Everything random comes from ``random.Random(seed).random()``, whose stream Python
guarantees across versions and machines, and the renderer uses IEEE arithmetic only: a seed gives
the same scene anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
Rgb = tuple[int, int, int]
T = TypeVar("T")

IMAGE_SIZE = 128
"""Pixels on each side of a rendered scene."""

COLORS: dict[str, Rgb] = {
    "red": (222, 36, 36),
    "orange": (250, 138, 20),
    "yellow": (250, 222, 40),
    "green": (34, 160, 60),
    "cyan": (40, 206, 224),
    "blue": (36, 72, 220),
    "purple": (136, 48, 190),
    "pink": (255, 110, 188),
}
SIZES: dict[str, tuple[float, float]] = {"small": (14.0, 16.0), "large": (22.0, 26.0)}
"""Radius range of each size, in pixels of the 128-pixel image."""
FILLS = ("plain", "striped")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "ring"),
        ("orange", "square"),
        ("yellow", "cross"),
        ("green", "triangle"),
        ("blue", "star"),
        ("purple", "circle"),
    }
)
"""(colour, shape) combinations that no training image or caption contains."""

STRIPE_PERIOD = 8
"""Stripes are horizontal bands of half this many pixels, on a grid fixed to the image."""
STRIPE_SHADE = 0.45
"""A dark band is the object's colour times this."""
MARGIN = 3.0
GAP = 5.0


@dataclass(frozen=True)
class SceneObject:
    """One object: its attributes, centre (x to the right, y down, pixels) and radius (pixels)."""

    color: str
    shape: str
    size: str
    fill: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Background:
    """A tint, or a linear gradient from ``start`` to ``end`` along ``axis`` (0 down, 1 right)."""

    start: Rgb
    end: Rgb
    axis: int = 0

    @property
    def graded(self) -> bool:
        """Whether the two ends differ."""
        return self.start != self.end


@dataclass(frozen=True)
class Scene:
    """Objects on a background; the first stands in ``relation`` to the second, if there is one."""

    objects: tuple[SceneObject, ...]
    background: Background
    relation: str | None


TINTS: tuple[Rgb, ...] = (
    (246, 246, 246),
    (226, 230, 238),
    (240, 234, 224),
    (222, 234, 226),
    (208, 208, 212),
    (234, 224, 232),
)


def pick(rng: Random, choices: Sequence[T]) -> T:
    """One of ``choices`` by one ``rng.random()``: ``Random.choice`` may change across versions."""
    return choices[int(rng.random() * len(choices))]


def uniform(rng: Random, low: float, high: float) -> float:
    """A number in [low, high) from a single ``rng.random()``."""
    return low + (high - low) * rng.random()


# --- shapes: signed distance in units of the radius, negative inside -----------------------------


def _polygon(*corners: tuple[float, float]) -> Callable[[Array, Array], Array]:
    ends = [*corners[1:], corners[0]]

    def distance(x: Array, y: Array) -> Array:
        squared = np.full(x.shape, np.inf)
        inside = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, ends, strict=True):
            ex, ey, wx, wy = bx - ax, by - ay, x - ax, y - ay
            along = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0.0, 1.0)
            squared = np.minimum(squared, (wx - ex * along) ** 2 + (wy - ey * along) ** 2)
            if ay != by:  # even-odd rule
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
        return np.where(inside, -np.sqrt(squared), np.sqrt(squared))

    return distance


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 0.94


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - 0.76) - 0.22


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _polygon((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)),
    "triangle": _polygon((0.0, -0.92), (0.98, 0.86), (-0.98, 0.86)),
    "star": _polygon(  # five points, inner radius 0.45
        (0.0, -1.0), (0.2645, -0.3641), (0.9511, -0.309), (0.428, 0.1391), (0.5878, 0.809),
        (0.0, 0.45), (-0.5878, 0.809), (-0.428, 0.1391), (-0.9511, -0.309), (-0.2645, -0.3641),
    ),
    "ring": _ring,
    "cross": _polygon(
        (-0.3, -0.96), (0.3, -0.96), (0.3, -0.3), (0.96, -0.3), (0.96, 0.3), (0.3, 0.3),
        (0.3, 0.96), (-0.3, 0.96), (-0.3, 0.3), (-0.96, 0.3), (-0.96, -0.3), (-0.3, -0.3),
    ),
}  # fmt: skip


def coverage(shape: str, radius: float, x: Array, y: Array) -> Array:
    """How much of each pixel the shape covers, in [0, 1].

    Args:
        radius: of the shape, in pixels.
        x, y: centres of the pixels relative to the shape's own, in pixels, of one size.
    """
    return np.clip(0.5 - SHAPES[shape](x / radius, y / radius) * radius, 0.0, 1.0)


# --- sampling ------------------------------------------------------------------------------------


def sample_scene(seed: int, *, count: int | None = None, held_out: bool = False) -> Scene:
    """The scene of this seed.

    Args:
        seed: any integer; the same seed gives the same scene on every machine.
        count: number of objects, 1 to 3; None draws it (20 % one, 60 % two, 20 % three).
        held_out: whether the (colour, shape) pairs of :data:`HELD_OUT` may appear.

    Example:
        >>> len(sample_scene(7, count=2).objects)
        2
    """
    if count is not None and count not in (1, 2, 3):
        raise ValueError(f"count: got {count}, expected 1, 2 or 3")
    rng = Random(seed)
    count = count or pick(rng, (1, 2, 2, 2, 3))
    while True:
        looks = _sample_looks(rng, count, held_out)
        relation = pick(rng, RELATIONS) if count > 1 else None
        radii = [uniform(rng, *SIZES[size]) for _, _, size, _ in looks]
        centres = place(rng, radii, relation)
        if centres is not None:
            break
    objects = tuple(
        SceneObject(*look, x, y, radius)
        for look, (x, y), radius in zip(looks, centres, radii, strict=True)
    )
    return Scene(objects, _sample_background(rng), relation)


def _sample_looks(rng: Random, count: int, held_out: bool) -> list[tuple[str, str, str, str]]:
    """Attributes of ``count`` objects, no two of the same colour and shape."""
    looks: list[tuple[str, str, str, str]] = []
    while len(looks) < count:
        color, shape = pick(rng, tuple(COLORS)), pick(rng, tuple(SHAPES))
        size, fill = pick(rng, tuple(SIZES)), pick(rng, FILLS)
        taken = any((color, shape) == look[:2] for look in looks)
        if not taken and (held_out or (color, shape) not in HELD_OUT):
            looks.append((color, shape, size, fill))
    return looks


def place(
    rng: Random, radii: Sequence[float], relation: str | None
) -> list[tuple[float, float]] | None:
    """Centres of objects apart, the first in ``relation`` to the second; None after 200 tries."""
    for _ in range(200):
        centres = [
            (
                uniform(rng, MARGIN + radius, IMAGE_SIZE - MARGIN - radius),
                uniform(rng, MARGIN + radius, IMAGE_SIZE - MARGIN - radius),
            )
            for radius in radii
        ]
        if _apart(centres, radii) and (relation is None or holds(relation, centres[0], centres[1])):
            return centres
    return None


def _apart(centres: Sequence[tuple[float, float]], radii: Sequence[float]) -> bool:
    for i in range(len(radii)):
        for j in range(i):
            dx, dy = centres[i][0] - centres[j][0], centres[i][1] - centres[j][1]
            if dx * dx + dy * dy < (radii[i] + radii[j] + GAP) ** 2:
                return False
    return True


def holds(relation: str, a: tuple[float, float], b: tuple[float, float], tilt: float = 0.6) -> bool:
    """Whether ``a`` is ``relation`` ``b``, at most ``tilt`` pixels off the axis per pixel along."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    across = dy if relation in ("left of", "right of") else dx
    return along > 0 and abs(across) <= tilt * along


def _sample_background(rng: Random) -> Background:
    start = pick(rng, TINTS)
    if rng.random() < 0.5:
        return Background(start, start)
    return Background(start, pick(rng, TINTS), pick(rng, (0, 1)))


# --- rendering -----------------------------------------------------------------------------------


def render_array(scene: Scene, size: int = IMAGE_SIZE) -> NDArray[np.uint8]:
    """The scene as (size, size, 3) uint8, anti-aliased; ``size`` only scales the same picture."""
    scale = size / IMAGE_SIZE
    canvas = _background(scene.background, size)
    for item in scene.objects:
        x, y, radius = item.x * scale, item.y * scale, item.radius * scale
        left, top = max(0, int(x - radius) - 2), max(0, int(y - radius) - 2)
        right, bottom = min(size, int(x + radius) + 3), min(size, int(y + radius) + 3)
        ys, xs = np.mgrid[top:bottom, left:right].astype(np.float64) + 0.5
        alpha = coverage(item.shape, radius, xs - x, ys - y)[..., None]
        paint = np.broadcast_to(np.array(COLORS[item.color], dtype=np.float64), (*xs.shape, 3))
        if item.fill == "striped":
            dark = np.floor(ys / scale) % STRIPE_PERIOD >= STRIPE_PERIOD / 2
            paint = np.where(dark[..., None], paint * STRIPE_SHADE, paint)
        patch = canvas[top:bottom, left:right]
        canvas[top:bottom, left:right] = patch * (1.0 - alpha) + paint * alpha
    return np.floor(canvas + 0.5).astype(np.uint8)


def _background(background: Background, size: int) -> Array:
    ramp = (np.arange(size, dtype=np.float64) + 0.5) / size
    start, end = np.array(background.start, float), np.array(background.end, float)
    line = start + ramp[:, None] * (end - start)  # (size, 3)
    line = line[:, None, :] if background.axis == 0 else line[None, :, :]
    return np.broadcast_to(line, (size, size, 3)).copy()


def render(scene: Scene, size: int = IMAGE_SIZE) -> Image.Image:
    """The scene as an RGB image of ``size`` x ``size`` pixels.

    Example:
        >>> render(sample_scene(0)).size
        (128, 128)
    """
    return Image.fromarray(render_array(scene, size))
