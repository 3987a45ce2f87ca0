"""The oracle: each requirement of a caption by itself, and pictures of any kind."""

from __future__ import annotations

import math
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import picture_of, thing

from clipguide.data.scene_captions import ObjectSpec, SceneSpec, parse_caption, phrasings, spec_of
from clipguide.data.scenes import COLORS, RELATIONS, SHAPES, render, render_array, sample_scene
from clipguide.evaluation import detect_objects, oracle_verdict
from clipguide.evaluation.scene_oracle import verdict_on

# --- yes and no -----------------------------------------------------------------------------------

CAPTIONS = ["a red star", "a blue ring and a pink cross", "a green circle above a cyan square"]


def test_no_to_blank_noise_and_random_pixels() -> None:
    grain = np.random.default_rng(0)
    pictures = [np.full((128, 128, 3), value, dtype=np.uint8) for value in (0, 128, 246, 255)] + [
        grain.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(3)
    ]
    for caption in CAPTIONS:
        assert not any(oracle_verdict(picture, caption).ok for picture in pictures)


def test_no_to_photographs(shared_data: Path) -> None:
    photos = sorted(shared_data.glob("photos_odd_aspect/**/*.jpg"))[:10]
    if not photos:
        pytest.skip(f"no photographs under {shared_data / 'photos_odd_aspect'}")
    for photo in photos:
        with Image.open(photo) as image:
            seen = detect_objects(image)
        for color in COLORS:
            for shape in SHAPES:
                assert not verdict_on(seen, SceneSpec((ObjectSpec(color, shape),))).ok


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_one_object_is_itself_and_no_other(color: str, shape: str) -> None:
    seen = detect_objects(picture_of(thing(color, shape, "small", "striped")))
    yes = {
        (c, s) for c in COLORS for s in SHAPES if verdict_on(seen, parse_caption(f"a {c} {s}")).ok
    }
    assert yes == {(color, shape)}
    assert verdict_on(seen, parse_caption(f"a small striped {color} {shape}")).ok


STAR, RING = thing("red", "star", x=30), thing("blue", "ring", "small", "striped", x=95)


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
    verdict = oracle_verdict(picture_of(STAR, RING), caption)
    assert verdict.ok == (not failed)
    assert [answer.kind for answer in verdict.failed] == failed
    assert len(verdict.detected) == 2


def test_the_order_of_objects_does_not_matter() -> None:
    things = (STAR, RING, thing("pink", "cross", "small", x=64, y=20))
    seen = detect_objects(picture_of(*things))
    looks = [ObjectSpec(t.color, t.shape, t.size, t.fill) for t in things]
    for order in permutations(looks):
        for found in permutations(seen):
            assert verdict_on(found, SceneSpec(order)).ok


def test_two_objects_of_one_look_need_two_things() -> None:
    twins = picture_of(thing("red", "star", "small", x=30), thing("red", "star", "small", x=90))
    assert oracle_verdict(twins, "a red star and a red star").ok
    assert oracle_verdict(twins, "a red star left of a red star").ok
    assert not oracle_verdict(twins, "a red star").ok
    assert not oracle_verdict(picture_of(STAR), "a red star and a red star").ok


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("degrees", range(0, 360, 20))
def test_relations_follow_the_dominant_axis(relation: str, degrees: int) -> None:
    x, y = 40 * math.cos(math.radians(degrees)), 40 * math.sin(math.radians(degrees))
    a, b = thing("red", "circle", "small"), thing("blue", "circle", "small", x=64 + x, y=64 + y)
    a = thing("red", "circle", "small", x=64 - x / 4, y=64 - y / 4)
    true = {
        "left of": x > abs(y),
        "right of": -x > abs(y),
        "above": y > abs(x),
        "below": -y > abs(x),
    }
    spec = SceneSpec((ObjectSpec("red", "circle"), ObjectSpec("blue", "circle")), relation)
    assert oracle_verdict(picture_of(a, b), spec).ok == true[relation]
    assert all(
        oracle_verdict(picture_of(a, b), caption).ok == true[relation]
        for caption in phrasings(spec)
    )


# --- what is accepted -----------------------------------------------------------------------------


def test_images_arrays_and_tensors_of_any_size_are_judged_alike() -> None:
    scene = sample_scene(21, count=2)
    spec = spec_of(scene, Random(0), detail=1.0)
    picture = render_array(scene)
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255.0
    same = [Image.fromarray(picture), picture, tensor, tensor[None], tensor.double()]
    assert all(oracle_verdict(image, spec) == oracle_verdict(picture, spec) for image in same)
    assert oracle_verdict(picture, spec).ok
    assert all(oracle_verdict(render(scene, size), spec).ok for size in (64, 96, 200, 256, 512))
    assert oracle_verdict(Image.fromarray(picture).convert("RGBA"), spec).ok


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
        detect_objects(tensor)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (3, 8, 8)])
def test_arrays_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image: got uint8 of shape .*, expected uint8 \(H, W, 3"):
        detect_objects(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"image: got float64"):
        detect_objects(np.zeros((8, 8, 3)))  # pyright: ignore[reportArgumentType]


def test_a_caption_outside_the_grammar_is_refused() -> None:
    with pytest.raises(ValueError, match="caption: got 'a cat'"):
        oracle_verdict(picture_of(STAR), "a cat")
