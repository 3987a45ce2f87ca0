"""The oracle: right on drawn scenes, and no to everything that is not what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from clipguide.data.scene_captions import (
    ATTRIBUTES,
    ObjectSpec,
    SceneSpec,
    parse_caption,
    phrasings,
    spec_of,
)
from clipguide.data.scenes import (
    COLORS,
    HELD_OUT,
    RELATIONS,
    SHAPES,
    SIZES,
    Background,
    Scene,
    SceneObject,
    coverage,
    render,
    render_array,
    sample_scene,
)
from clipguide.evaluation import judge, see
from clipguide.evaluation.components import dilate, erode, label_components
from clipguide.evaluation.image_transforms import autoencoder, jpeg, noise, unchanged
from clipguide.evaluation.oracle_report import OWN, WRONG, format_report, main, measure_oracle
from clipguide.evaluation.scene_oracle import judge_seen
from clipguide.evaluation.shape_match import match_shape

WHITE = Background((246, 246, 246), (246, 246, 246))


def _thing(
    color: str = "red",
    shape: str = "star",
    size: str = "large",
    fill: str = "plain",
    x: float = 64,
    y: float = 64,
) -> SceneObject:
    return SceneObject(color, shape, size, fill, x, y, sum(SIZES[size]) / 2)


def _picture(*things: SceneObject) -> NDArray[np.uint8]:
    return render_array(Scene(things, WHITE, None))


# --- rates ----------------------------------------------------------------------------------------


def test_rates_on_scenes_clean_and_after_jpeg() -> None:
    report = measure_oracle(300, transforms={"clean": unchanged, "jpeg": jpeg(85)})
    for name in ("clean", "jpeg"):
        assert report.overall(name, wrong=False).percent >= 99.5
        assert report.overall(name, wrong=True).percent >= 99.5
    kinds = {rate.kind: rate for rate in report.rates}
    assert set(kinds) == {*OWN, *WRONG}
    assert kinds["own caption"].total == 300
    assert all(rate.total > 150 for rate in report.rates)
    assert sum(c.count for c in report.confusions) <= 3


def test_rates_on_held_out_combinations() -> None:
    right = total = 0
    for seed in range(400):
        scene = sample_scene(seed, held_out=True)
        if any((thing.color, thing.shape) in HELD_OUT for thing in scene.objects):
            total += 1
            right += judge(render(scene), spec_of(scene, Random(seed), detail=1.0)).ok
    assert total > 80
    assert right / total >= 0.995


@pytest.mark.parametrize("transform", [noise(10.0), jpeg(40)])
def test_rates_on_worse_pictures(transform: Callable[[Image.Image], Image.Image]) -> None:
    report = measure_oracle(60, seed=5000, transforms={"worse": transform})
    assert report.overall("worse", wrong=False).percent >= 98
    assert report.overall("worse", wrong=True).percent >= 99.5


@pytest.mark.usefixtures("starter_assets")
def test_rates_after_the_starters_autoencoder() -> None:
    from clipguide import load_starter

    vae = load_starter().vae
    report = measure_oracle(80, transforms={"vae": autoencoder(vae)})
    assert report.overall("vae", wrong=False).percent >= 98.5
    assert report.overall("vae", wrong=True).percent >= 99.5


def test_the_report_names_what_is_confused_with_what(capsys: pytest.CaptureFixture[str]) -> None:
    def red_to_blue(image: Image.Image) -> Image.Image:
        return Image.fromarray(np.array(image)[..., ::-1])  # and blue to red, purple to pink ...

    report = measure_oracle(40, transforms={"dyed": red_to_blue})
    dyed = {(c.attribute, c.drawn, c.seen) for c in report.confusions}
    assert ("color", "red", "blue") in dyed
    assert {attribute for attribute, _, _ in dyed} == {"color"}
    assert report.overall("dyed", wrong=False).percent < 95
    assert "red as blue" in format_report(report)
    main(["--scenes", "3"])
    printed = capsys.readouterr().out
    assert "own caption" in printed
    assert "jpeg 85" in printed


# --- yes and no -----------------------------------------------------------------------------------

CAPTIONS = ["a red star", "a blue ring and a pink cross", "a green circle above a cyan square"]


def test_no_to_blank_noise_and_random_pixels() -> None:
    grain = np.random.default_rng(0)
    pictures = [np.full((128, 128, 3), value, dtype=np.uint8) for value in (0, 128, 246, 255)] + [
        grain.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(3)
    ]
    for caption in CAPTIONS:
        assert not any(judge(picture, caption).ok for picture in pictures)


def test_no_to_photographs(shared_data: Path) -> None:
    photos = sorted(shared_data.glob("photos_odd_aspect/**/*.jpg"))[:10]
    if not photos:
        pytest.skip(f"no photographs under {shared_data / 'photos_odd_aspect'}")
    for photo in photos:
        with Image.open(photo) as image:
            seen = see(image)
        for color in COLORS:
            for shape in SHAPES:
                assert not judge_seen(seen, SceneSpec((ObjectSpec(color, shape),))).ok


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_one_object_is_itself_and_no_other(color: str, shape: str) -> None:
    seen = see(_picture(_thing(color, shape, "small", "striped")))
    yes = {
        (c, s) for c in COLORS for s in SHAPES if judge_seen(seen, parse_caption(f"a {c} {s}")).ok
    }
    assert yes == {(color, shape)}
    assert judge_seen(seen, parse_caption(f"a small striped {color} {shape}")).ok


STAR, RING = _thing("red", "star", x=30), _thing("blue", "ring", "small", "striped", x=95)


@pytest.mark.parametrize(
    ("caption", "failed"),
    [
        ("a red star left of a blue ring", []),
        ("a blue ring and a red star", []),
        ("a large plain red star and a small striped blue ring", []),
        ("a red star right of a blue ring", ["relation"]),
        ("a blue ring above a red star", ["relation"]),
        ("a red star", ["extra"]),
        ("a small red star and a blue ring", ["size"]),
        ("a red star and a plain blue ring", ["fill"]),
        ("a pink star and a blue ring", ["present", "color"]),
        ("a red star and a blue circle", ["present", "shape"]),
        ("a blue star and a red ring", ["present", "color", "present", "color"]),
        ("a red star, a blue ring and a pink cross", ["present", "color", "shape"]),
    ],
)
def test_each_requirement_is_answered_by_itself(caption: str, failed: list[str]) -> None:
    verdict = judge(_picture(STAR, RING), caption)
    assert verdict.ok == (not failed)
    assert [answer.kind for answer in verdict.failed] == failed
    assert len(verdict.seen) == 2


def test_the_order_of_objects_does_not_matter() -> None:
    things = (STAR, RING, _thing("pink", "cross", "small", x=64, y=20))
    seen = see(_picture(*things))
    looks = [ObjectSpec(t.color, t.shape, t.size, t.fill) for t in things]
    for order in permutations(looks):
        for found in permutations(seen):
            assert judge_seen(found, SceneSpec(order)).ok


def test_two_objects_of_one_look_need_two_things() -> None:
    twins = _picture(_thing("red", "star", "small", x=30), _thing("red", "star", "small", x=90))
    assert judge(twins, "a red star and a red star").ok
    assert judge(twins, "a red star left of a red star").ok
    assert not judge(twins, "a red star").ok
    assert not judge(_picture(STAR), "a red star and a red star").ok


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("degrees", range(0, 360, 20))
def test_relations_follow_the_dominant_axis(relation: str, degrees: int) -> None:
    x, y = 40 * math.cos(math.radians(degrees)), 40 * math.sin(math.radians(degrees))
    a, b = _thing("red", "circle", "small"), _thing("blue", "circle", "small", x=64 + x, y=64 + y)
    a = _thing("red", "circle", "small", x=64 - x / 4, y=64 - y / 4)
    true = {
        "left of": x > abs(y),
        "right of": -x > abs(y),
        "above": y > abs(x),
        "below": -y > abs(x),
    }
    spec = SceneSpec((ObjectSpec("red", "circle"), ObjectSpec("blue", "circle")), relation)
    assert judge(_picture(a, b), spec).ok == true[relation]
    assert all(judge(_picture(a, b), caption).ok == true[relation] for caption in phrasings(spec))


# --- objects that are none ------------------------------------------------------------------------


def _asks(color: str, shape: str) -> SceneSpec:
    return SceneSpec((ObjectSpec(color, shape),))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fill", ["plain", "striped"])
@pytest.mark.parametrize("size", SIZES)
def test_no_to_half_an_object(shape: str, size: str, fill: str) -> None:
    picture = _picture(_thing("green", shape, size, fill))
    whole = judge(picture, _asks("green", shape))
    for cut in (np.s_[:, 64:], np.s_[:64, :]):  # the right half, the upper half
        half = picture.copy()
        half[cut] = 246
        assert whole.ok
        assert not judge(half, _asks("green", shape)).ok


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("other", ["orange", "blue", "pink"])
def test_no_to_an_object_of_two_colours(shape: str, other: str) -> None:
    picture, second = (_picture(_thing(color, shape)) for color in ("red", other))
    for cut in (np.s_[:, 64:], np.s_[64:, :], np.s_[:, 72:]):
        mixed = picture.copy()
        mixed[cut] = second[cut]
        assert not judge(mixed, _asks("red", shape)).ok
        assert not judge(mixed, _asks(other, shape)).ok


@pytest.mark.parametrize("shape", SHAPES)
def test_no_to_two_objects_that_merge(shape: str) -> None:
    for distance in (20, 28, 36):
        merged = _picture(*(_thing("cyan", shape, x=64 + s * distance / 2) for s in (-1, 1)))
        assert not judge(merged, _asks("cyan", shape)).ok


def test_no_to_brown_grey_and_pale() -> None:
    picture = _picture(_thing("orange", "circle")).astype(float)
    brown = np.where(picture < 245, picture * 0.45, picture)
    pale = 246 + (picture - 246) * 0.3
    grey = np.repeat(picture.min(axis=2, keepdims=True), 3, axis=2)
    assert judge(picture.astype(np.uint8), "an orange circle").ok
    for wrong in (brown, pale, grey):
        assert not judge(wrong.astype(np.uint8), "an orange circle").ok


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
    assert len(see(picture)) == 1
    assert not any(judge(picture, _asks("blue", shape)).ok for shape in SHAPES)


def test_specks_are_no_objects_and_spots_are() -> None:
    picture = _picture(_thing())
    picture[8:13, 8:13] = COLORS["blue"]  # 25 pixels
    assert judge(picture, "a red star").ok
    for paint in (COLORS["blue"], (0, 0, 0), (90, 90, 90)):
        picture[8:18, 8:18] = paint  # 100 pixels
        verdict = judge(picture, "a red star")
        assert [answer.kind for answer in verdict.failed] == ["extra"]


def test_objects_of_one_colour_that_touch_at_a_corner_are_two() -> None:
    radius = _thing(size="small").radius
    step = 0.82 * radius * 2 - 1.5  # the corners overlap by a pixel and a half
    pair = [_thing("red", "square", "small", x=40 + k * step, y=40 + k * step) for k in (0, 1)]
    assert judge(_picture(*pair), "a red square and a red square").ok


# --- what is accepted -----------------------------------------------------------------------------


def test_images_arrays_and_tensors_of_any_size_are_judged_alike() -> None:
    scene = sample_scene(21, count=2)
    spec = spec_of(scene, Random(0), detail=1.0)
    picture = render_array(scene)
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255.0
    same = [Image.fromarray(picture), picture, tensor, tensor[None], tensor.double()]
    assert all(judge(image, spec) == judge(picture, spec) for image in same)
    assert judge(picture, spec).ok
    assert all(judge(render(scene, size), spec).ok for size in (64, 96, 200, 256, 512))
    assert judge(Image.fromarray(picture).convert("RGBA"), spec).ok


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"image: got shape \(2, 3, 8, 8\), expected \(3, H, W\)"),
        (torch.zeros(8, 8, 3), r"image: got shape \(8, 8, 3\)"),
        (torch.full((3, 8, 8), 1.5), r"image: got 1.5 to 1.5, expected 0 to 1"),
        (torch.full((3, 8, 8), -1.0), r"image: got -1.0 to -1.0"),
        (torch.full((3, 8, 8), float("nan")), r"image: got nan"),
    ],
)
def test_tensors_that_are_no_image_are_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        see(tensor)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (3, 8, 8)])
def test_arrays_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image: got uint8 of shape .*, expected uint8 \(H, W, 3"):
        see(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"image: got float64"):
        see(np.zeros((8, 8, 3)))  # pyright: ignore[reportArgumentType]


def test_a_caption_outside_the_grammar_is_refused() -> None:
    with pytest.raises(ValueError, match="caption: got 'a cat'"):
        judge(_picture(STAR), "a cat")


# --- parts ----------------------------------------------------------------------------------------

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
        seen = see(render(scene))
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
