"""The renderer: the same pixels everywhere, shapes of the right area, relations that hold."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguide.data.scenes import (
    COLORS,
    FILLS,
    HELD_OUT,
    INVERSE,
    SHAPES,
    SIZES,
    STRIPE_SHADE,
    Background,
    Scene,
    SceneObject,
    coverage,
    holds,
    render,
    render_array,
    sample_scene,
)

WHITE = Background((246, 246, 246), (246, 246, 246))

GOLDEN = {
    0: "b424b399748543baeeeff0e58e13b4ee0689a6ffd8368e26835b2d2cad1d3a2f",
    1: "2f4ad240268c7031f41b8666a7589de1ab3d8a06ddc63c9863f996e15e10092c",
    7: "195786d3ec6818c0553a7e78505f78d4988aec9e1a645979d93635970ef7c345",
    2024: "c36208fd548256960cf26e0d38075b978dc7953eb02124079170e7ce3ae665d9",
}
"""SHA-256 of the pixels of a seed's scene: the same on every machine and in later versions."""


def _digest(seed: int) -> str:
    return hashlib.sha256(render_array(sample_scene(seed)).tobytes()).hexdigest()


@pytest.mark.parametrize("seed", GOLDEN)
def test_a_seed_gives_these_pixels(seed: int) -> None:
    assert _digest(seed) == GOLDEN[seed]


def test_another_process_renders_the_same_pixels() -> None:
    code = (
        "import hashlib; from clipguide.data.scenes import render_array, sample_scene;"
        "print(hashlib.sha256(render_array(sample_scene(7)).tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == GOLDEN[7]


def test_scenes_do_not_depend_on_the_ones_sampled_before() -> None:
    alone = sample_scene(5)
    for seed in range(5):
        sample_scene(seed, held_out=True)
    assert sample_scene(5) == alone


def test_held_out_combinations_are_never_drawn_unless_asked_for() -> None:
    usual = {(o.color, o.shape) for seed in range(2000) for o in sample_scene(seed).objects}
    assert not usual & HELD_OUT
    assert len(usual) == len(COLORS) * len(SHAPES) - len(HELD_OUT)
    scenes = (sample_scene(seed, held_out=True) for seed in range(500))
    assert {(o.color, o.shape) for scene in scenes for o in scene.objects} >= HELD_OUT


def test_counts_sizes_and_fills_come_in_the_stated_parts() -> None:
    scenes = [sample_scene(seed) for seed in range(2000)]
    counts = [len(scene.objects) for scene in scenes]
    assert [counts.count(n) / 2000 for n in (1, 2, 3)] == pytest.approx([0.2, 0.6, 0.2], abs=0.03)
    things = [thing for scene in scenes for thing in scene.objects]
    for name, values in (("size", SIZES), ("fill", FILLS)):
        for value in values:
            share = sum(getattr(thing, name) == value for thing in things) / len(things)
            assert share == pytest.approx(0.5, abs=0.03)
    assert all(SIZES[thing.size][0] <= thing.radius < SIZES[thing.size][1] for thing in things)


def test_objects_are_inside_and_apart() -> None:
    ys, xs = np.mgrid[0:128, 0:128] + 0.5
    shared = 0
    for seed in range(150):
        alphas = [
            coverage(o.shape, o.radius, xs - o.x, ys - o.y) for o in sample_scene(seed).objects
        ]
        border = [np.concatenate([a[0], a[-1], a[:, 0], a[:, -1]]).max() for a in alphas]
        assert max(border) == 0.0
        shared += int((sum((a > 0.5).astype(int) for a in alphas) > 1).sum())
    assert shared == 0


def test_the_relation_holds_and_no_other_does() -> None:
    for seed in range(300):
        scene = sample_scene(seed, count=2)
        a, b = ((thing.x, thing.y) for thing in scene.objects)
        assert [name for name in INVERSE if holds(name, a, b)] == [scene.relation]
        assert [name for name in INVERSE if holds(name, b, a)] == [INVERSE[str(scene.relation)]]


@pytest.mark.parametrize("name", INVERSE)
@pytest.mark.parametrize("degrees", [0, 20, 30, 33, 40, 60, 90, 180])
def test_holds_is_a_cone_around_the_axis(name: str, degrees: int) -> None:
    # b lies `degrees` off the direction in which a's relation to it points
    axis = {"left of": 0, "above": 90, "right of": 180, "below": 270}[name]  # y points down
    angle = math.radians(axis + degrees)
    b = (64 + 30 * math.cos(angle), 64 + 30 * math.sin(angle))
    assert holds(name, (64.0, 64.0), b) == (degrees < math.degrees(math.atan(0.6)))


AREAS = {
    "circle": math.pi * 0.94**2,
    "square": 1.64**2,
    "triangle": 0.5 * 1.96 * 1.78,
    "ring": math.pi * (0.98**2 - 0.54**2),
    "cross": 4 * 0.6 * 0.66 + 0.6**2,
    "star": 10 * 0.5 * 1.0 * 0.45 * math.sin(math.radians(36)),  # ten triangles from the centre
}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=20, deadline=None)
@given(radius=st.floats(14, 26), x=st.floats(-0.5, 0.5), y=st.floats(-0.5, 0.5))
def test_coverage_sums_to_the_area(shape: str, radius: float, x: float, y: float) -> None:
    ys, xs = np.mgrid[-40:40, -40:40] + 0.5
    area = coverage(shape, radius, xs - x, ys - y).sum()
    assert area == pytest.approx(AREAS[shape] * radius**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_what_many_samples_per_pixel_say(shape: str) -> None:
    fine = (np.arange(-40 * 8, 40 * 8) + 0.5) / 8
    inside = coverage(shape, 20.0 * 1e6, *np.meshgrid(fine * 1e6, fine * 1e6))  # hard edges
    slow = inside.reshape(80, 8, 80, 8).mean(axis=(1, 3))
    ys, xs = np.mgrid[-40:40, -40:40] + 0.5
    difference = np.abs(coverage(shape, 20.0, xs, ys) - slow)
    assert difference.mean() < 0.001
    assert np.percentile(difference, 99.9) < 0.2  # corners are rounder by the distance


def test_stripes_are_dark_bands_on_the_images_own_grid() -> None:
    scene = Scene((SceneObject("orange", "square", "large", "striped", 64, 61, 24),), WHITE, None)
    column = render_array(scene)[:, 64].astype(float)
    light = np.array(COLORS["orange"], dtype=float)
    for y in range(45, 78):
        expected = light * STRIPE_SHADE if y % 8 >= 4 else light
        assert np.abs(column[y] - expected).max() <= 0.5


def test_a_gradient_runs_from_start_to_end_along_its_axis() -> None:
    for axis in (0, 1):
        scene = Scene((), Background((208, 208, 212), (246, 246, 246), axis), None)
        pixels = render_array(scene).astype(float)
        line = pixels[:, 5] if axis == 0 else pixels[5]
        assert np.abs(line[0] - (208, 208, 212)).max() <= 1
        assert np.abs(line[-1] - (246, 246, 246)).max() <= 1
        assert (np.diff(line, axis=0) >= 0).all()
        assert np.ptp(pixels, axis=1 - axis).max() == 0


def test_a_larger_picture_shows_the_same_scene() -> None:
    scene = sample_scene(11)
    small = render_array(scene).astype(float)
    large = render_array(scene, 384).astype(float).reshape(128, 3, 128, 3, 3).mean(axis=(1, 3))
    assert np.abs(small - large).mean() < 0.3
    assert render(scene, 64).size == (64, 64)


@pytest.mark.parametrize("count", [0, 4, -1])
def test_an_impossible_count_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"count: got {count}, expected 1, 2 or 3"):
        sample_scene(0, count=count)
