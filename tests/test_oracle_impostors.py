"""The oracle says no to objects that are none: half, mixed, merged, pale, of another world."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_scenes import picture_of, thing

from clipguide.data.scene_captions import ObjectSpec, SceneSpec
from clipguide.data.scenes import COLORS, SHAPES, SIZES
from clipguide.evaluation import detect_objects, oracle_verdict


def asks(color: str, shape: str) -> SceneSpec:
    return SceneSpec((ObjectSpec(color, shape),))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", ["plain", "striped"])
@pytest.mark.parametrize("size", SIZES)
def test_no_to_half_an_object(shape: str, size: str, fill: str) -> None:
    picture = picture_of(thing("green", shape, size, fill))
    whole = oracle_verdict(picture, asks("green", shape))
    for cut in (np.s_[:, 64:], np.s_[:64, :]):  # the right half, the upper half
        half = picture.copy()
        half[cut] = 246
        assert whole.ok
        assert not oracle_verdict(half, asks("green", shape)).ok


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", ["orange", "blue", "pink"])
def test_no_to_an_object_of_two_colours(shape: str, other: str) -> None:
    picture, second = (picture_of(thing(color, shape)) for color in ("red", other))
    for cut in (np.s_[:, 64:], np.s_[64:, :], np.s_[:, 72:]):
        mixed = picture.copy()
        mixed[cut] = second[cut]
        assert not oracle_verdict(mixed, asks("red", shape)).ok
        assert not oracle_verdict(mixed, asks(other, shape)).ok


@pytest.mark.parametrize("shape", SHAPES)
def test_no_to_two_objects_that_merge(shape: str) -> None:
    for distance in (20, 28, 36):
        merged = picture_of(*(thing("cyan", shape, x=64 + s * distance / 2) for s in (-1, 1)))
        assert not oracle_verdict(merged, asks("cyan", shape)).ok


def test_no_to_brown_grey_and_pale() -> None:
    picture = picture_of(thing("orange", "circle")).astype(float)
    brown = np.where(picture < 245, picture * 0.45, picture)
    pale = 246 + (picture - 246) * 0.3
    grey = np.repeat(picture.min(axis=2, keepdims=True), 3, axis=2)
    assert oracle_verdict(picture.astype(np.uint8), "an orange circle").ok
    for wrong in (brown, pale, grey):
        assert not oracle_verdict(wrong.astype(np.uint8), "an orange circle").ok


@pytest.mark.parametrize("name", ["ellipse", "bar", "blob", "wedge"])
def test_no_to_a_shape_of_another_world(name: str) -> None:
    ys, xs = np.mgrid[-64:64, -64:64] + 0.5
    angle = np.arctan2(ys, xs)
    inside = {
        "ellipse": (xs / 34) ** 2 + (ys / 15) ** 2 < 1,
        "bar": (abs(xs) < 30) & (abs(ys) < 8),
        "blob": np.hypot(xs, ys) < 16 + 9 * np.cos(3 * angle) + 4 * np.sin(2 * angle),
        "wedge": (np.hypot(xs, ys) < 24) & (abs(angle) > 1.2),
    }[name]
    picture = np.full((128, 128, 3), 246, dtype=np.uint8)
    picture[inside] = COLORS["blue"]
    assert len(detect_objects(picture)) == 1
    assert not any(oracle_verdict(picture, asks("blue", shape)).ok for shape in SHAPES)


def test_specks_are_no_objects_and_spots_are() -> None:
    picture = picture_of(thing())
    picture[8:13, 8:13] = COLORS["blue"]  # 25 pixels
    assert oracle_verdict(picture, "a red star").ok
    for paint in (COLORS["blue"], (0, 0, 0), (90, 90, 90)):
        picture[8:18, 8:18] = paint  # 100 pixels
        verdict = oracle_verdict(picture, "a red star")
        assert [answer.kind for answer in verdict.failed] == ["extra"]


def test_objects_of_one_colour_that_touch_at_a_corner_are_two() -> None:
    radius = thing(size="small").radius
    step = 0.82 * radius * 2 - 1.5  # the corners overlap by a pixel and a half
    pair = [thing("red", "square", "small", x=40 + k * step, y=40 + k * step) for k in (0, 1)]
    assert oracle_verdict(picture_of(*pair), "a red square and a red square").ok
