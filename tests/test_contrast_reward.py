"""The contrast reward against the slow way, in Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_clip import tiny_clip_dir
from tiny_rewards import generators, images, smooth_cosines
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.rewards import ContrastReward, Views


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return load_scorer(tiny_clip_dir(tmp_path_factory.mktemp("clip"), image_size=16))


def slow_contrast(
    scorer: Scorer, x: Tensor, prompt: str, others: list[str], scale: float, cosine: float
) -> list[float]:
    """Image by image, in Python floats."""
    own = smooth_cosines(scorer, x, prompt).tolist()
    wrong = [smooth_cosines(scorer, x, text).tolist() for text in others]
    return [
        scale * right
        - math.log(sum(math.exp(scale * c) for c in (right, *(row[i] for row in wrong))))
        + cosine * scale * right
        for i, right in enumerate(own)
    ]


@pytest.mark.parametrize(("scale", "cosine"), [(20.0, 0.2), (3.0, 0.0), (100.0, 1.5)])
def test_contrast_is_the_log_probability_of_the_prompt(
    scorer: Scorer, scale: float, cosine: float
) -> None:
    x, others = images(), ["a cat", "snow on a fox"]
    reward = ContrastReward(scorer, "a fox", [others], scale=scale, cosine=cosine)
    expected = slow_contrast(scorer, x, "a fox", others, scale, cosine)
    torch.testing.assert_close(reward(x), torch.tensor(expected), atol=2e-5, rtol=0)


def test_contrast_takes_the_prompts_own_swaps(scorer: Scorer) -> None:
    x, prompts = images(4), ["a red star left of a blue ring", "a fox"]
    swaps = [
        "a blue ring left of a red star",
        "a blue star left of a red ring",
        "a red star right of a blue ring",
    ]
    found, scale = ContrastReward(scorer, prompts)(x), scorer.logit_scale / 2
    expected = slow_contrast(scorer, x[:2], prompts[0], swaps, scale, 0.2)
    alone = 0.2 * scale * smooth_cosines(scorer, x[2:], "a fox")  # nothing to tell it from
    expected += alone.tolist()
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-5, rtol=0)


def test_prompts_have_their_own_alternatives_images_and_views(scorer: Scorer) -> None:
    """Two prompts with two images each and unequal numbers of alternatives: as each one alone."""
    x, prompts, others = images(4), ["a fox", "snow"], [["a cat"], ["ice", "a red fox", "rain"]]
    views = Views(count=2, crop=(0.5, 0.9), noise=0.1)
    found = ContrastReward(scorer, prompts, others, views=views)(
        x, generators=generators(1, 2, 3, 4)
    )
    for place in range(4):
        prompt, own = prompts[place // 2], [others[place // 2]]
        alone = ContrastReward(scorer, prompt, own, views=views)
        single = alone(x[place : place + 1], generators=generators(place + 1))
        torch.testing.assert_close(found[place : place + 1], single, atol=1e-5, rtol=0)


def test_contrast_is_differentiable_and_averages_views(scorer: Scorer) -> None:
    x = images().requires_grad_()
    views = Views(count=3, crop=(0.5, 0.9))
    reward = ContrastReward(scorer, "a fox", [["a cat"]], views=views)
    total = reward(x, generators=generators(1, 2, 3))
    single = ContrastReward(scorer, "a fox", [["a cat"]])
    parts = single(views(x, generators(1, 2, 3))).view(3, 3).mean(1)
    torch.testing.assert_close(total, parts, atol=1e-6, rtol=0)
    (slope,) = torch.autograd.grad(total.sum(), x)
    assert bool((slope.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 0.0}, "got scale 0.0"),
        ({"cosine": float("nan")}, "got cosine nan"),
        ({"alternatives": [["a"], ["b"]]}, "got 2 lists of alternatives for 1 prompts"),
        ({"alternatives": ["a cat"]}, "expected a list of alternatives for each prompt"),
        ({"alternatives": [[" "]]}, "got an empty prompt or alternative"),
        ({"alternatives": [[]], "cosine": 0.0}, "got 'a fox' without alternatives"),
    ],
)
def test_contrast_refuses(scorer: Scorer, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastReward(scorer, "a fox", **given)  # type: ignore[arg-type]


def test_contrast_refuses_images_that_do_not_fit_its_prompts(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="got 3 images for 2 prompts"):
        ContrastReward(scorer, ["a fox", "a cat"])(images())
