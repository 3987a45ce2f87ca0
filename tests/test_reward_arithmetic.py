"""The arithmetic of rewards, and functions that stand for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny_rewards import images
from torch import Tensor

from clipguide.rewards import FunctionReward, Reward, as_reward

MEAN = FunctionReward(lambda x: x.flatten(1).mean(1))
FIRST = FunctionReward(lambda x: x[:, 0, 0, 0])


def test_rewards_add_scale_and_negate() -> None:
    x = images()
    mean, first = MEAN(x), FIRST(x)
    for reward, expected in [
        (MEAN + FIRST, mean + first),
        (0.8 * MEAN + 0.2 * FIRST, 0.8 * mean + 0.2 * first),
        (MEAN - FIRST * 2, mean - 2 * first),
        (-(MEAN - 0.5 * FIRST), 0.5 * first - mean),
        (3 * (MEAN + 2 * FIRST) - MEAN, 2 * mean + 6 * first),
        (MEAN / 2 - (MEAN + FIRST) / -4, 0.75 * mean + 0.25 * first),
        (sum([MEAN, 2 * FIRST, -MEAN], FIRST), 3 * first),
        (sum([MEAN, FIRST]), mean + first),
        (np.float32(2) * MEAN / np.int64(4), 0.5 * mean),
    ]:
        torch.testing.assert_close(reward(x), expected)


def test_plain_functions_add_to_rewards_from_either_side() -> None:
    def contrast(x: Tensor) -> Tensor:
        return x.flatten(1).std(1)

    x = images()
    mean, std = MEAN(x), contrast(x)
    for reward, expected in [
        (MEAN + contrast, mean + std),
        (contrast + MEAN, mean + std),
        (MEAN - contrast, mean - std),
        (contrast - 2 * MEAN, std - 2 * mean),
        (-(MEAN - contrast) / 2 + contrast, 1.5 * std - 0.5 * mean),
        (sum([MEAN, contrast, contrast]), mean + 2 * std),
        (MEAN + torch.nn.Sequential(torch.nn.Flatten(), _Std()), mean + std),
    ]:
        assert isinstance(reward, Reward)
        torch.testing.assert_close(reward(x), expected)


class _Std(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.std(1)


@pytest.mark.parametrize(
    "slip",
    [
        lambda: MEAN - 0.5,
        lambda: MEAN + 0.5,
        lambda: MEAN + 0,
        lambda: 0.5 + MEAN,
        lambda: 1 - MEAN,
        lambda: 0.0 + MEAN,
        lambda: False + MEAN,
        lambda: np.float32(0.5) + MEAN,
        lambda: MEAN - np.float64(0.5),
        lambda: sum([MEAN, FIRST], 1),
        lambda: MEAN + torch.ones(3),
        lambda: torch.ones(3) - MEAN,
        lambda: MEAN + "a red fox",
    ],
)
def test_what_is_not_a_reward_is_not_added(slip: Callable[[], object]) -> None:
    with pytest.raises(
        TypeError, match=r"got .* subtracted from a reward, expected another reward"
    ):
        slip()


@pytest.mark.parametrize(
    ("slip", "kind", "message"),
    [
        (lambda: MEAN * FIRST, TypeError, "got a reward times FunctionReward, expected a number"),
        (lambda: MEAN / FIRST, TypeError, "got a reward times FunctionReward"),
        (lambda: MEAN * "2", TypeError, "got a reward times str"),
        (lambda: MEAN * True, TypeError, "got a reward times bool"),
        (lambda: MEAN / True, TypeError, "got a reward times bool"),
        (lambda: 1 / MEAN, TypeError, "unsupported"),
        (lambda: float("nan") * MEAN, ValueError, "got a reward times nan, expected a finite"),
        (lambda: MEAN / float("inf"), ValueError, "got a reward times inf"),
        (lambda: MEAN / 0, ValueError, "got a reward divided by 0"),
    ],
)
def test_factors_are_finite_numbers(
    slip: Callable[[], object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        slip()


def test_a_function_of_images_is_a_reward() -> None:
    assert as_reward(MEAN) is MEAN
    wrapped = as_reward(lambda x: x.sum((1, 2, 3)))
    assert isinstance(wrapped, Reward)
    torch.testing.assert_close(wrapped(images()), images().sum((1, 2, 3)))
    with pytest.raises(TypeError, match="got reward str, expected"):
        as_reward("a red fox")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (2, 3)])
def test_a_term_that_gives_no_number_for_each_image_is_refused(shape: tuple[int, ...]) -> None:
    """Broadcast, the mean over a batch would pass for each image's own value."""
    reward = MEAN + (lambda images: images.mean() * torch.ones(shape))
    with pytest.raises(ValueError, match="got rewards of shape"):
        reward(torch.rand(2, 3, 8, 8))
