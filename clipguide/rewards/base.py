"""What guidance climbs and search ranks by: rewards, and their arithmetic.

A reward reads finished images, or noisy latents and their noise level (`Reward.reads`). A sum may
hold both kinds: `terms_that_read` takes it apart, so that each term is given what it reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from clipguide.rewards.probes import probe

Generators = Sequence[torch.Generator]


class Reward(ABC):
    """Images, or noisy latents, to one number each, higher is better; differentiable where guidance
    is wanted.

    Rewards add and scale: `0.8 * clip + 0.2 * aesthetic`, `clip - other`, `-clip`, `clip / 2`,
    `sum([clip, other])`. A plain function of images may stand for a reward beside one:
    `clip - (lambda images: images.var((1, 2, 3)))`. A number added to a reward changes neither its
    gradient nor an order of images, so it is refused as what it must be: a slip.

    Attributes:
        reads: "images" or "latents". A sum of both kinds reads "images and latents".

    Raises: TypeError for a number added or subtracted, or two rewards multiplied; ValueError for a
    factor that is not finite.
    """

    reads: str = "images"
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

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """The reward of each noisy latent, for rewards that read "latents".

        Args:
            latents: (B, C, h, w) in the normal form x/√(α²+σ²), unpacked.
            sigma_bar: their noise level σ/√(α²+σ²) in [0, 1].
            generators: as above.

        Returns:
            (B,).

        Raises:
            ValueError: it reads images.
        """
        raise ValueError(f"got latents, expected images: {type(self).__name__} reads those")

    @property
    def guidance(self) -> dict[str, Any]:
        """The settings of `GuidanceConfig` that `guide` takes where none are given, by name."""
        return {}

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:  # noqa: B027
        """Raises where the latents of a pipeline with this autoencoder are not those it reads.

        Raises:
            ValueError: they are another's.
        """

    @property
    def noise_aware(self) -> bool:
        """Whether it was made for x0 previews too, and so tells early what a picture will be.

        A search that looks at previews looks earlier then (`Prune`). False of a plain function.
        """
        return False

    @property
    def entries(self) -> int:
        """For how many prompts it was made, one after the other in a batch; 1 for any number."""
        return 1

    def for_entries(self, rows: Sequence[int]) -> Reward:
        """The reward of a batch, image i of which belongs to prompt `rows[i]` of this one's.

        Itself where it holds one prompt or none.
        """
        return self

    def split(self) -> tuple[tuple[float, Reward], ...]:
        """Itself as a sum: weights and terms, each of which reads images or latents."""
        return ((1.0, self),)

    def __add__(self, other: Addend) -> Reward:
        return WeightedSum((*self.split(), *_addend(other).split()))

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
        return WeightedSum(tuple((factor * w, reward) for w, reward in self.split()))

    def __rmul__(self, weight: float) -> Reward:
        return self * weight

    def __truediv__(self, divisor: float) -> Reward:
        if _factor(divisor) == 0:
            raise ValueError(f"got a reward divided by {divisor}, expected another number than 0")
        return WeightedSum(tuple((w / _factor(divisor), reward) for w, reward in self.split()))

    def __neg__(self) -> Reward:
        return self * -1.0


Addend: TypeAlias = Reward | Callable[[Tensor], Tensor]
"""What can be added to a reward: another one, or a plain function, images to (B,)."""


@dataclass(frozen=True)
class WeightedSum(Reward):
    """Σ weight · reward. Its terms draw from the generators in order."""

    terms: tuple[tuple[float, Reward], ...]

    @property
    def reads(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its terms read."""
        return " and ".join(sorted({reward.reads for _, reward in self.terms}))

    @property
    def noise_aware(self) -> bool:
        """Whether all its terms are."""
        return all(reward.noise_aware for _, reward in self.terms)

    @property
    def entries(self) -> int:
        """The most of any term."""
        return max(reward.entries for _, reward in self.terms)

    def for_entries(self, rows: Sequence[int]) -> Reward:
        """The same sum of every term's."""
        return WeightedSum(tuple((w, reward.for_entries(rows)) for w, reward in self.terms))

    def split(self) -> tuple[tuple[float, Reward], ...]:
        """Its terms."""
        return self.terms

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self._sum(lambda term: term(images, generators=generators), images)

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """Σ weight · reward of the latents."""
        return self._sum(
            lambda term: term.of_latents(latents, sigma_bar, generators=generators), latents
        )

    def _sum(self, value_of: Callable[[Reward], Tensor], seen: Tensor) -> Tensor:
        total = torch.zeros(seen.shape[0], device=seen.device)  # (B,)
        for weight, reward in self.terms:
            value = check_rewards(probe("reward", value_of(reward)), len(total))
            total = total + weight * value.to(total.device)
        return total

    @property
    def guidance(self) -> dict[str, Any]:
        """Of the first term that has any."""
        return next((own for _, term in self.terms if (own := term.guidance)), {})

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:
        """Of every term."""
        for _, reward in self.terms:
            reward.check_autoencoder(autoencoder)


@dataclass(frozen=True)
class FunctionReward(Reward):
    """A reward from a plain function of images, (B, 3, H, W) in [0, 1] -> (B,)."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self.function(images)


@dataclass(frozen=True)
class LatentReward(Reward):
    """A reward from a plain function of noisy latents and their noise level.

    Attributes:
        function: (latents (B, C, h, w) in the normal form x/√(α²+σ²), sigma_bar in [0, 1]) -> (B,).

    Example:
        >>> small = LatentReward(lambda latents, sigma_bar: -latents.square().mean((1, 2, 3)))
        >>> small.of_latents(torch.ones(2, 4, 8, 8), 0.5)
        tensor([-1., -1.])
    """

    function: Callable[[Tensor, float], Tensor]
    reads = "latents"

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        raise ValueError("got images, expected latents: LatentReward reads those")

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """What the function gives."""
        return self.function(latents, sigma_bar)


def _addend(other: Any) -> Reward:
    if callable(other):
        return as_reward(cast("Addend", other))
    got = f"the number {other}" if isinstance(other, Real) else type(other).__name__
    raise TypeError(
        f"got {got} added to or subtracted from a reward, expected another reward or a function of "
        "images (a constant would change no order and no gradient; did you mean to multiply?)"
    )


def _factor(weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"got a reward times {type(weight).__name__}, expected a number")
    factor = float(weight)
    if not math.isfinite(factor):
        raise ValueError(f"got a reward times {factor}, expected a finite number")
    return factor


def terms_that_read(reward: Reward, what: str) -> Reward | None:
    """The part of a reward that reads "images" or "latents"; None where there is none."""
    if reward.reads == what:
        return reward
    terms = tuple(term for term in reward.split() if term[1].reads == what)
    return WeightedSum(terms) if terms else None


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
