"""What the searches of several prompts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clipguide.rewards.base import Generators, Reward, terms_that_read
from clipguide.search.stages import StageRewards


class Climbed(Reward):
    """What guidance climbs while the prompts of its batches change: `now`.

    Args:
        now: the reward of the batch that is being made.
        part: the terms of it that are meant, "images" or "latents"; None: all.
        whole: of which this is a part.
    """

    def __init__(self, now: Reward, part: str | None = None, whole: Climbed | None = None) -> None:
        self.now, self._part, self._whole = now, part, whole

    @property
    def reads(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the reward of a batch reads."""
        return self._part or self.now.reads

    @property
    def noise_aware(self) -> bool:
        """Whether the reward of a batch is."""
        return self.now.noise_aware

    @property
    def guidance(self) -> dict[str, Any]:
        """Of the reward of a batch."""
        return self.now.guidance

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:
        """Of the reward of a batch."""
        self.now.check_autoencoder(autoencoder)

    def split(self) -> tuple[tuple[float, Reward], ...]:
        """A term for what it reads of each kind."""
        kinds = sorted({term.reads for _, term in self.now.split()})
        if self._part is not None or len(kinds) == 1:
            return ((1.0, self),)
        return tuple((1.0, Climbed(self.now, kind, self)) for kind in kinds)

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self._meant()(images, generators=generators)

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """That of the batch."""
        return self._meant().of_latents(latents, sigma_bar, generators=generators)

    def _meant(self) -> Reward:
        now = self.now if self._whole is None else self._whole.now
        return (terms_that_read(now, self._part) if self._part else None) or now


@dataclass(frozen=True)
class Joint:
    """The rewards of all prompts, from which those of a batch's are taken by `Reward.for_entries`.

    Attributes:
        rewards: of all prompts.
        climbed: what guidance was given; None without guidance.
    """

    rewards: StageRewards
    climbed: Climbed | None
