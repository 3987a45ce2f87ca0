"""The oracle on pictures of any size and shape: objects are seen undistorted, of the right size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipguide.data.scenes import COLORS, SHAPES, STRIPE_PERIOD, STRIPE_SHADE, coverage
from clipguide.evaluation.scene_oracle import oracle_verdict

SIZES = [
    (128, 96), (96, 128), (128, 64), (64, 128), (64, 64), (96, 64), (64, 100), (160, 128),
    (192, 128), (256, 192), (200, 300), (512, 384), (256, 64), (64, 320), (512, 96), (127, 93),
]  # fmt: skip


def paint(
    size: tuple[int, int],
    objects: list[tuple[str, str, float, float, float]],
    striped: bool = False,
) -> Image.Image:
    """Objects (colour, shape, x, y, radius) in pixels of a (width, height) picture, smooth."""
    width, height = size
    unit = max(size) / 128
    canvas = np.full((height, width, 3), 240.0)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float64) + 0.5
    for color, shape, x, y, radius in objects:
        alpha = coverage(shape, radius, xs - x, ys - y)[..., None]
        fill = np.broadcast_to(np.array(COLORS[color], dtype=np.float64), canvas.shape)
        if striped:
            dark = np.floor(ys / unit) % STRIPE_PERIOD >= STRIPE_PERIOD / 2
            fill = np.where(dark[..., None], fill * STRIPE_SHADE, fill)
        canvas = canvas * (1 - alpha) + fill * alpha
    return Image.fromarray(np.floor(canvas + 0.5).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_every_shape_is_seen_at_every_size(size: tuple[int, int]) -> None:
    x, y = size[0] / 2, size[1] / 2
    radius = min(size) * 0.3
    for number, shape in enumerate(SHAPES):
        color = [*COLORS][number]
        picture = paint(size, [(color, shape, x, y, radius)])
        assert oracle_verdict(picture, f"a {color} {shape}").ok, (size, shape)
        other = "circle" if shape != "circle" else "square"
        assert not oracle_verdict(picture, f"a {color} {other}").ok


@pytest.mark.parametrize("size", SIZES)
def test_relations_are_those_of_the_pixels(size: tuple[int, int]) -> None:
    width, height = size
    radius = min(min(size) * 0.3, max(size) * 0.2)
    wide = width >= height
    ends = [(0.25, 0.5), (0.75, 0.5)] if wide else [(0.5, 0.25), (0.5, 0.75)]
    objects = [
        (color, shape, x * width, y * height, radius)
        for (color, shape), (x, y) in zip([("red", "star"), ("blue", "ring")], ends, strict=True)
    ]
    relation, turned = ("left of", "right of") if wide else ("above", "below")
    picture = paint(size, objects)
    assert oracle_verdict(picture, f"a red star {relation} a blue ring").ok
    assert not oracle_verdict(picture, f"a red star {turned} a blue ring").ok


@pytest.mark.parametrize("size", [(128, 96), (96, 128), (128, 64), (256, 192), (384, 512)])
def test_sizes_and_fills_of_a_crop_are_those_of_the_whole(size: tuple[int, int]) -> None:
    """A crop whose longest side is that of the whole picture keeps the world's own scale."""
    unit = max(size) / 128
    for name, radius in (("small", 15.0), ("large", 24.0)):
        for striped in (False, True):
            objects = [("red", "square", size[0] / 2, size[1] / 2, radius * unit)]
            picture = paint(size, objects, striped)
            fill = "striped" if striped else "plain"
            assert oracle_verdict(picture, f"a {name} red square").ok, (name, fill)
            other = "large" if name == "small" else "small"
            assert not oracle_verdict(picture, f"a {other} red square").ok
            assert oracle_verdict(picture, "a striped red square").ok is striped


def test_a_stretched_star_is_no_star() -> None:
    square = paint((128, 128), [("red", "star", 64, 64, 25)])
    assert oracle_verdict(square, "a red star").ok
    assert not oracle_verdict(square.resize((128, 80)), "a red star").ok


@pytest.mark.parametrize("shape", [(3, 96, 128), (1, 3, 128, 96)])
def test_tensors_of_any_size_too(shape: tuple[int, ...]) -> None:
    import torch

    height, width = shape[-2:]
    pixels = np.asarray(paint((width, height), [("red", "star", width / 2, height / 2, 25)]))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255).reshape(shape)
    assert oracle_verdict(tensor, "a red star").ok
