"""The parts of the oracle: components, shapes and what is seen, against scipy and the drawing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from clipguide.data.scene_captions import ATTRIBUTES
from clipguide.data.scenes import SHAPES, coverage, render, sample_scene
from clipguide.evaluation import detect_objects
from clipguide.evaluation.components import dilate, erode, label_components
from clipguide.evaluation.shape_match import match_shape

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_components_erosion_and_dilation_are_scipys(mask: NDArray[np.bool_]) -> None:
    labels, count = label_components(mask)
    expected, expected_count = ndimage.label(mask)
    assert count == expected_count
    assert np.array_equal(labels, expected)
    assert np.array_equal(dilate(mask), ndimage.binary_dilation(mask))
    assert np.array_equal(erode(mask), ndimage.binary_erosion(mask))


@pytest.mark.parametrize("density", [0.3, 0.5, 0.6, 0.9, 1.0])
def test_components_of_dense_grain_are_scipys(density: float) -> None:
    mask = np.random.default_rng(1).random((128, 128)) < density
    expected, count = ndimage.label(mask)
    assert np.array_equal(label_components(mask)[0], expected)
    assert label_components(mask)[1] == count


def test_components_want_a_mask() -> None:
    with pytest.raises(ValueError, match=r"mask: got uint8 of shape \(3, 3\), expected bool"):
        label_components(np.ones((3, 3), dtype=np.uint8))  # pyright: ignore[reportArgumentType]


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(list(SHAPES)), st.floats(10, 30), st.floats(50, 78), st.floats(50, 78))
def test_a_drawn_shape_is_found_where_it_was_drawn(
    shape: str, radius: float, x: float, y: float
) -> None:
    ys, xs = np.mgrid[0:128, 0:128] + 0.5
    best, second = match_shape(coverage(shape, radius, xs - x, ys - y) > 0.5)
    assert best.shape == shape
    assert math.hypot(best.x - x, best.y - y) < 0.8
    assert abs(best.radius - radius) < 0.8
    assert best.iou > 0.85
    assert best.iou - second.iou > 0.05


def test_overlap_is_intersection_over_union() -> None:
    ys, xs = np.mgrid[0:128, 0:128] + 0.5
    mask = np.hypot(xs - 60, ys - 60) < 20
    best, _ = match_shape(mask)
    drawn = coverage(best.shape, best.radius, xs - best.x, ys - best.y)
    assert best.iou == pytest.approx(
        np.minimum(mask, drawn).sum() / np.maximum(mask, drawn).sum(), abs=1e-5
    )
    with pytest.raises(ValueError, match="mask: got an empty mask"):
        match_shape(np.zeros((4, 4), dtype=bool))


def test_what_is_seen_is_what_was_drawn() -> None:
    for seed in range(40):
        scene = sample_scene(seed, held_out=True)
        seen = detect_objects(render(scene))
        assert [thing.area for thing in seen] == sorted((t.area for t in seen), reverse=True)
        assert len(seen) == len(scene.objects)
        for item in scene.objects:
            thing = min(seen, key=lambda t: math.hypot(t.x - item.x, t.y - item.y))
            assert math.hypot(thing.x - item.x, thing.y - item.y) < 1.0
            assert abs(thing.radius - item.radius) < 1.5
            assert all(getattr(thing, name) == getattr(item, name) for name in ATTRIBUTES)
            left, top, right, bottom = thing.bbox
            assert left < item.x < right
            assert top < item.y < bottom
            assert 0.8 < thing.confidence <= 1.0
            assert f"{item.color} {item.shape}" in str(thing)
