"""Regions against loops over pixels; parts against their formula, one part at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_rewards import generators, images, smooth_cosines
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.data.prompt_parts import parts_of
from clipguide.rewards import (
    ClipReward,
    ContrastReward,
    FunctionReward,
    LatentReward,
    PartsReward,
    Region,
    RegionReward,
    Views,
)
from clipguide.rewards.base import terms_that_read

MEAN = FunctionReward(lambda x: x.flatten(1).mean(1))
LATENT_MEAN = LatentReward(lambda x, level: level + x.flatten(1).mean(1))
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
PROMPT = "a red cube left of a blue ball"


@pytest.fixture(scope="module")
def latent_scorer(starter_assets: Any) -> Any:
    return load_scorer("starter:latent")


def slow_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """For each place the largest entry of the mask that its square touches."""
    rows, columns = mask.shape
    found = torch.zeros(height, width)
    for i in range(height):
        for j in range(width):
            touched = [
                float(mask[r, c])
                for r in range(rows)
                for c in range(columns)
                if r < (i + 1) * rows / height and r + 1 > i * rows / height
                and c < (j + 1) * columns / width and c + 1 > j * columns / width
            ]  # fmt: skip
            found[i, j] = max(touched)
    return found


# ----------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0.25, 0.5, 0.75, 1.0), (12, 24), (8, 24)),
        ((0.0, 0.0, 1.0, 1.0), (0, 24), (0, 32)),
        ((0.1, 0.3, 0.4, 0.6), (7, 14), (3, 13)),  # 3.2 to 12.8 of 32, 7.2 to 14.4 of 24
        ((0.999, 0.0, 1.0, 0.001), (0, 1), (31, 32)),  # at least one pixel
    ],
)
def test_a_box_is_cut_out(box: Any, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 24, 32)
    seen = x[:, :, rows[0] : rows[1], columns[0] : columns[1]]
    assert torch.equal(Region(box).of_images(x), seen)
    assert torch.equal(RegionReward(MEAN, box)(x), MEAN(seen))


@pytest.mark.parametrize("size", [(24, 32), (5, 3), (48, 40)])
def test_a_mask_greys_what_it_leaves_out(size: tuple[int, int]) -> None:
    mask = torch.rand(*size, generator=torch.Generator().manual_seed(1))
    mask[: size[0] // 2] = 0
    x = torch.rand(2, 3, 24, 32)
    weight = slow_mask(mask, 24, 32)
    kept = weight.amax(1).nonzero().flatten()
    expected = (weight * x + (1 - weight) * 0.5)[:, :, kept[0] : kept[-1] + 1]
    torch.testing.assert_close(Region(mask).of_images(x), expected, atol=1e-6, rtol=0)
    whole = Region(torch.ones(*size, dtype=torch.bool)).of_images(x)
    torch.testing.assert_close(whole, x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("where", [LEFT, torch.eye(3)])
def test_latents_outside_are_noise_of_the_level(where: Any) -> None:
    x = torch.randn(2, 4, 6, 8)
    mask = where if isinstance(where, Tensor) else torch.tensor([[1.0] * 4 + [0.0] * 4] * 6)
    weight = slow_mask(mask, 6, 8)
    noise = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = weight * x + (1 - weight) * 0.3 * noise
    torch.testing.assert_close(Region(where).of_latents(x, 0.3), expected, atol=1e-6, rtol=0)
    reward = RegionReward(LATENT_MEAN, where)
    torch.testing.assert_close(reward.of_latents(x, 0.3), LATENT_MEAN.of_latents(expected, 0.3))
    assert reward.reads == "latents"


def test_the_gradient_stays_inside(tiny_scorer: Scorer, latent_scorer: Any) -> None:
    x = images(2, 32).requires_grad_()
    ClipReward(tiny_scorer, "a fox", region=LEFT)(x).sum().backward()
    assert x.grad is not None
    assert x.grad[..., :16].abs().amax() > 0
    assert x.grad[..., 16:].abs().amax() == 0
    z = torch.randn(1, latent_scorer.channels, 16, 16).requires_grad_()
    ContrastReward(latent_scorer, PROMPT, region=RIGHT).of_latents(z, 0.4).sum().backward()
    assert z.grad is not None
    assert z.grad[..., 8:].abs().amax() > 0
    assert z.grad[..., :8].abs().amax() == 0


def test_region_of_a_reward_is_the_reward_of_a_region(tiny_scorer: Scorer) -> None:
    x = images(2, 32)
    for kind in (ClipReward, ContrastReward):
        own = kind(tiny_scorer, PROMPT, region=LEFT)
        torch.testing.assert_close(own(x), kind(tiny_scorer, PROMPT)(x[..., :16]))
        torch.testing.assert_close(own(x), RegionReward(kind(tiny_scorer, PROMPT), LEFT)(x))
    viewed = ClipReward(tiny_scorer, PROMPT, views=Views(count=2, crop=(0.5, 1.0)))
    torch.testing.assert_close(
        RegionReward(viewed, LEFT)(x, generators=generators(1, 2)),
        viewed(x[..., :16], generators=generators(1, 2)),
    )


def test_a_sum_of_both_kinds_is_taken_apart_within_a_region() -> None:
    reward = RegionReward(2 * MEAN + 3 * LATENT_MEAN, LEFT)
    of_images, of_latents = (terms_that_read(reward, what) for what in ("images", "latents"))
    assert reward.reads == "images and latents"
    assert of_images is not None
    assert of_latents is not None
    x, z = images(2), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(of_images(x), 2 * MEAN(x[..., :12]))
    inside = Region(LEFT).of_latents(z, 0.5)
    torch.testing.assert_close(
        of_latents.of_latents(z, 0.5), 3 * LATENT_MEAN.of_latents(inside, 0.5)
    )
    scaled = (0.5 * reward).split()
    assert [weight for weight, _ in scaled] == [1.0, 1.5]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((0.5, 0, 0.5, 1), "expected .x0, y0, x1, y1. with 0 <= x0 < x1 <= 1"),
        ((0, 0, 2, 1), r"got region \(0.0, 0.0, 2.0, 1.0\)"),
        ((0, math.nan, 1, 1), "got region"),
        ((0, 0, 1), r"got region \(0, 0, 1\), expected \(x0, y0, x1, y1\) or a mask"),
        ("left", "got region 'left'"),
        (torch.zeros(3, 3), "a mask that is 0 everywhere"),
        (torch.ones(1, 3, 3), r"got a mask of shape \(1, 3, 3\), expected \(h, w\)"),
        (2 * torch.ones(3, 3), r"expected \[0, 1\]"),
        (torch.full((3, 3), math.nan), r"expected \[0, 1\]"),
    ],
)
def test_regions_that_are_none(region: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionReward(MEAN, region)


# ------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (PROMPT, ["a red cube", "a blue ball"]),
        ("A red star above a ring and two circles", ["A red star", "a ring", "two circles"]),
        ("a photo of a dog", ["a dog"]),
        ("a dog next to a dog", ["a dog"]),
        ("happiness", ["happiness"]),
        ("a dog without a leash or a collar, and a cat", ["a dog", "a cat"]),
        ("A star, NOT a ring, above a circle", ["A star", "a circle"]),
        ("the man isn't on a horse", ["the man"]),
        ("no people on a beach", ["no people on a beach"]),
    ],
)  # fmt: skip
def test_parts_of_a_prompt(prompt: str, parts: list[str]) -> None:
    assert parts_of(prompt) == parts


def slow_join(join: str, cosines: list[float], scale: float) -> float:
    if join == "mean":
        return sum(cosines) / len(cosines)
    if join == "product":
        return math.prod((1 + c) / 2 for c in cosines)
    return -math.log(sum(math.exp(-scale * c) for c in cosines) / len(cosines)) / scale


@pytest.mark.parametrize("join", ["mean", "product", "softmin"])
def test_parts_equal_their_formula(tiny_scorer: Scorer, join: str) -> None:
    x = images(3, 32)
    places = [LEFT, None, (0.25, 0.5, 1.0, 1.0)]
    parts = ["a red cube", "a blue ball", "snow"]
    reward = PartsReward(tiny_scorer, PROMPT, parts, places, join)
    seen = [x[..., :16], x, x[..., 16:, 8:]]
    columns = [smooth_cosines(tiny_scorer, y, t).tolist() for y, t in zip(seen, parts, strict=True)]
    expected = [
        slow_join(join, [*cosines], tiny_scorer.logit_scale)
        for cosines in zip(*columns, strict=True)
    ]
    torch.testing.assert_close(reward(x), torch.tensor(expected), atol=1e-5, rtol=0)


def test_parts_of_latents(latent_scorer: Any) -> None:
    z = torch.randn(2, latent_scorer.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    prompt = "a red star left of a blue ring"
    reward = PartsReward(latent_scorer, prompt, regions=[LEFT, RIGHT], join="softmin")
    cosines = [
        latent_scorer.score_latents(Region(place).of_latents(z, 0.5), 0.5, text).tolist()
        for place, text in zip([LEFT, RIGHT], ["a red star", "a blue ring"], strict=True)
    ]
    scale = float(latent_scorer.scale_at(0.5))
    expected = [slow_join("softmin", [*pair], scale) for pair in zip(*cosines, strict=True)]
    torch.testing.assert_close(reward.of_latents(z, 0.5), torch.tensor(expected), atol=1e-5, rtol=0)
    assert reward.reads == "latents"
    assert reward.guidance == ClipReward(latent_scorer, prompt).guidance


def test_the_weakest_part_has_the_gradient() -> None:
    """Of a softmin with a large factor; of a mean all have the same."""
    from clipguide.rewards.parts import JOINS

    for join, shares in (("mean", [1 / 3] * 3), ("softmin", [0.0, 1.0, 0.0])):
        cosines = torch.tensor([[0.3, 0.1, 0.4]], requires_grad=True)
        JOINS[join](cosines, 100.0).sum().backward()
        assert cosines.grad is not None
        torch.testing.assert_close(cosines.grad[0], torch.tensor(shares), atol=1e-6, rtol=0)


def test_a_prompt_per_image(tiny_scorer: Scorer) -> None:
    """Prompts with different numbers of parts, in diffusers' order."""
    x, other = images(4, 32), "a dog"
    reward = PartsReward(tiny_scorer, [PROMPT, other], join="product")
    assert reward.parts == [["a red cube", "a blue ball"], ["a dog"]]
    first, second = (PartsReward(tiny_scorer, p, join="product") for p in (PROMPT, other))
    torch.testing.assert_close(reward(x), torch.cat([first(x[:2]), second(x[2:])]))
    with pytest.raises(ValueError, match="got 3 images for 2 prompts, expected a multiple of 2"):
        reward(x[:3])


def test_a_region_is_looked_at_once_for_all_that_is_asked_of_it(tiny_scorer: Scorer) -> None:
    """Two prompts with parts of the whole picture, of two halves, and of one half twice."""
    x = images(4, 32)
    prompts = [PROMPT, "a dog and a cat and snow"]
    parts = [["a red cube", "a blue ball"], ["a dog", "a cat", "snow"]]
    places = [[LEFT, None], [RIGHT, LEFT, LEFT]]
    reward = PartsReward(tiny_scorer, prompts, parts, places, "product")
    slow = [
        PartsReward(tiny_scorer, text, own, where, "product")
        for text, own, where in zip(prompts, parts, places, strict=True)
    ]
    seen: list[int] = []
    tower: Any = tiny_scorer.model
    handle = next(
        module for module in tower.module.modules() if isinstance(module, torch.nn.Conv2d)
    ).register_forward_hook(lambda _m, given, _out: seen.append(len(given[0])))
    try:
        found = reward(x)
    finally:
        handle.remove()
    assert seen == [4, 2, 2]  # left by both prompts, the whole by one, right by the other
    expected = torch.cat([one(x[2 * i : 2 * i + 2]) for i, one in enumerate(slow)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    swapped = reward.for_entries([1, 0])
    torch.testing.assert_close(swapped(x[[2, 3, 0, 1]]), found[[2, 3, 0, 1]], atol=1e-6, rtol=0)


def test_views_of_parts_are_those_of_each_image(tiny_scorer: Scorer) -> None:
    x, views = images(2, 32), Views(count=3, crop=(0.3, 0.9))
    reward = PartsReward(tiny_scorer, PROMPT, views=views)
    both = reward(x, generators=generators(1, 2))
    alone = torch.cat([reward(x[i : i + 1], generators=generators(i + 1)) for i in range(2)])
    torch.testing.assert_close(both, alone, atol=1e-6, rtol=0)
    cosines = [
        ClipReward(tiny_scorer, part, views=views)(x, generators=generators(1, 2))
        for part in ("a red cube", "a blue ball")
    ]
    torch.testing.assert_close(both, sum(cosines) / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"join": "max"}, "got join 'max', expected one of mean, product, softmin"),
        ({"prompt": " "}, "got an empty prompt"),
        ({"parts": []}, r"got parts \[\], expected one text or more"),
        ({"parts": ["a", ""]}, "none of them empty"),
        ({"parts": "a cube"}, "got parts 'a cube', expected a list of texts"),
        ({"regions": [LEFT]}, r"got \[1\] regions, expected \[2\]"),
        ({"prompt": ["a dog", "a cat"], "parts": [["a dog"]]}, "got 1 lists of parts, expected 2"),
        ({"prompt": ["a dog", "a cat"], "parts": ["a dog", "a cat"]}, "expected a list of texts"),
    ],
)
def test_parts_that_do_not_fit(tiny_scorer: Scorer, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartsReward(tiny_scorer, **{"prompt": PROMPT, **arguments})
