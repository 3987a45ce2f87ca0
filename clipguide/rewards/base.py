"""What guidance climbs and search ranks by: rewards, and their arithmetic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.rewards.probes import probe

Generators = Sequence[torch.Generator]


class Reward(ABC):
    """Images to one number each, higher is better; differentiable where guidance is wanted.

    Rewards add and scale: `0.8 * clip + 0.2 * aesthetic`, `clip - other`, `-clip`.
    """

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

    def __add__(self, other: Reward) -> Reward:
        return WeightedSum((*_terms(self), *_terms(other)))

    def __mul__(self, weight: float) -> Reward:
        return WeightedSum(tuple((weight * w, reward) for w, reward in _terms(self)))

    def __rmul__(self, weight: float) -> Reward:
        return self * weight

    def __neg__(self) -> Reward:
        return self * -1.0

    def __sub__(self, other: Reward) -> Reward:
        return self + (-other)


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
