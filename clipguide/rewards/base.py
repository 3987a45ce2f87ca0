"""What guidance climbs and search ranks by: rewards, and their arithmetic."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from clipguide.rewards.probes import probe

Generators = Sequence[torch.Generator]


class Reward(ABC):
    """Images to one number each, higher is better; differentiable where guidance is wanted.

    Rewards add and scale: `0.8 * clip + 0.2 * aesthetic`, `clip - other`, `-clip`, `clip / 2`,
    `sum([clip, other])`. A plain function of images may stand for a reward beside one:
    `clip - (lambda images: images.var((1, 2, 3)))`. A number added to a reward changes neither its
    gradient nor an order of images, so it is refused as what it must be: a slip.

    Raises: TypeError for a number added or subtracted, or two rewards multiplied; ValueError for a
    factor that is not finite.
    """

    __array_ufunc__ = None  # so that numpy's own numbers leave the arithmetic to a reward

    @abstractmethod
    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        """The reward of each image.

        Args:
            images: (B, 3, H, W) in [0, 1].
            generators: one per image, for rewards with randomness (views); image i may use
                generator i alone.

        Returns:
            (B,).
        """

    def __add__(self, other: Addend) -> Reward:
        return WeightedSum((*_terms(self), *_terms(_addend(other))))

    def __radd__(self, other: Addend | int) -> Reward:
        if type(other) is int and other == 0:  # what sum([...]) begins with
            return self
        return _addend(other) + self

    def __sub__(self, other: Addend) -> Reward:
        return self + -_addend(other)

    def __rsub__(self, other: Addend) -> Reward:
        return _addend(other) + -self

    def __mul__(self, weight: float) -> Reward:
        factor = _factor(weight)
        return WeightedSum(tuple((factor * w, reward) for w, reward in _terms(self)))

    def __rmul__(self, weight: float) -> Reward:
        return self * weight

    def __truediv__(self, divisor: float) -> Reward:
        if _factor(divisor) == 0:
            raise ValueError(f"got a reward divided by {divisor}, expected another number than 0")
        return WeightedSum(tuple((w / _factor(divisor), reward) for w, reward in _terms(self)))

    def __neg__(self) -> Reward:
        return self * -1.0


Addend: TypeAlias = Reward | Callable[[Tensor], Tensor]
"""What can be added to a reward: another one, or a plain function, images to (B,)."""


@dataclass(frozen=True)
class WeightedSum(Reward):
    """Σ weight · reward. Its terms draw from the generators in order."""

    terms: tuple[tuple[float, Reward], ...]

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        total = torch.zeros(images.shape[0], device=images.device)  # (B,)
        for weight, reward in self.terms:
            value = probe("reward", reward(images, generators=generators))
            total = total + weight * value.to(total.device)
        return total


@dataclass(frozen=True)
class FunctionReward(Reward):
    """A reward from a plain function of images, (B, 3, H, W) in [0, 1] -> (B,)."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self.function(images)


def _terms(reward: Reward) -> tuple[tuple[float, Reward], ...]:
    return reward.terms if isinstance(reward, WeightedSum) else ((1.0, reward),)


def _addend(other: Any) -> Reward:
    if callable(other):
        return as_reward(cast("Addend", other))
    got = f"the number {other}" if isinstance(other, Real) else type(other).__name__
    raise TypeError(
        f"got {got} added to or subtracted from a reward, expected another reward or a function of "
        "images (a constant would change no order and no gradient; did you mean to multiply?)"
    )


def _factor(weight: Any) -> float:
    if not isinstance(weight, Real):
        raise TypeError(f"got a reward times {type(weight).__name__}, expected a number")
    factor = float(weight)
    if not math.isfinite(factor):
        raise ValueError(f"got a reward times {factor}, expected a finite number")
    return factor


def as_reward(reward: Reward | Callable[[Tensor], Tensor]) -> Reward:
    """A `Reward` as it is; any other callable, images to (B,), wrapped as one.

    Raises:
        TypeError: not callable.
    """
    if isinstance(reward, Reward):
        return reward
    if not callable(reward):
        raise TypeError(f"got reward {type(reward).__name__}, expected a Reward or a callable")
    return FunctionReward(reward)


def check_rewards(values: Tensor, batch: int) -> Tensor:
    """The values themselves.

    Raises:
        ValueError: not one per image.
    """
    if values.shape != (batch,):
        raise ValueError(f"got rewards of shape {tuple(values.shape)}, expected ({batch},)")
    return values
