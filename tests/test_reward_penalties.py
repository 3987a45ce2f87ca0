"""Penalties against loops over pixels, and their gradients by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_rewards import images
from torch import Tensor

from clipguide.rewards import RangePenalty, Reward, SaturationPenalty, TotalVariationPenalty


def saturation(picture: list[list[list[float]]]) -> float:
    red, green, blue = picture
    pixels = [
        values for rows in zip(red, green, blue, strict=True) for values in zip(*rows, strict=True)
    ]
    return -sum(max(values) - min(values) for values in pixels) / len(pixels)


def outside(picture: list[list[list[float]]]) -> float:
    values = [value for channel in picture for row in channel for value in row]
    return -sum((max(0.0, -v) + max(0.0, v - 1)) ** 2 for v in values) / len(values)


def variation(picture: list[list[list[float]]]) -> float:
    total, count = 0.0, 0
    for channel in picture:
        for i, row in enumerate(channel):
            for j, value in enumerate(row):
                count += 1
                if i + 1 < len(channel):
                    total += (channel[i + 1][j] - value) ** 2
                if j + 1 < len(row):
                    total += (row[j + 1] - value) ** 2
    return -total / count


CASES = [
    (SaturationPenalty(), saturation),
    (RangePenalty(), outside),
    (TotalVariationPenalty(), variation),
]


@pytest.mark.parametrize(("reward", "slow"), CASES)
def test_a_penalty_equals_a_loop_over_pixels(
    reward: Reward, slow: Callable[[list[list[list[float]]]], float]
) -> None:
    x = (3 * images(3)[:, :, :5, :7] - 1).double()  # on both sides of [0, 1], and not square
    expected = torch.tensor([slow(picture.tolist()) for picture in x], dtype=torch.double)
    assert float(expected.max()) < 0
    torch.testing.assert_close(reward(x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("reward", [reward for reward, _ in CASES])
def test_gradients(reward: Reward) -> None:
    x = (3 * images(2)[:, :, :3, :4] - 1).double().requires_grad_()

    def value(given: Tensor) -> Tensor:
        return reward(given)

    assert torch.autograd.gradcheck(value, (x,))


def test_pictures_without_fault_have_no_penalty() -> None:
    grey = torch.full((2, 3, 4, 4), 0.5)
    for reward, _ in CASES:
        assert reward(grey).tolist() == [0, 0]
    assert RangePenalty()(images()).tolist() == [0, 0, 0]


def test_penalties_add_to_rewards() -> None:
    x = images()
    both = (0.5 * SaturationPenalty() + TotalVariationPenalty() / 4)(x)
    torch.testing.assert_close(both, 0.5 * SaturationPenalty()(x) + TotalVariationPenalty()(x) / 4)
