"""Scenes of a few objects on white, placed by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipguide.data.scenes import SIZES, Background, Scene, SceneObject, render_array

WHITE = Background((246, 246, 246), (246, 246, 246))


def thing(
    color: str = "red",
    shape: str = "star",
    size: str = "large",
    fill: str = "plain",
    x: float = 64,
    y: float = 64,
) -> SceneObject:
    """An object in the middle of the range of its size."""
    return SceneObject(color, shape, size, fill, x, y, sum(SIZES[size]) / 2)


def picture_of(*things: SceneObject) -> NDArray[np.uint8]:
    """The objects on white, (128, 128, 3)."""
    return render_array(Scene(things, WHITE, None))
