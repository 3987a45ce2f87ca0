"""A reward of its own for each prompt of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.rewards.base import Generators, Reward, terms_that_read
from clipguide.rewards.probes import of_samples
from clipguide.rewards.view_encoder import entry_of_each


class PerPrompt(Reward):
    """Several rewards as one: reward i is asked for images i·n .. i·n+n-1 of a batch.

    One `ClipReward` or `ContrastReward` of all prompts does the same in one pass of its tower; this
    is for rewards that hold one prompt each. Images of the same reward are shown to it together.

    Args:
        rewards: one per prompt; they read the same.

    Cost: that of each reward for its images.

    Raises:
        ValueError: no reward, or some that read images beside others that read latents.

    Example:
        >>> reward = PerPrompt([ClipReward(scorer, "a red fox"), ClipReward(scorer, "a cat")])
        >>> reward(images).shape
        torch.Size([2])
    """

    def __init__(self, rewards: Sequence[Reward]) -> None:
        kinds = sorted({reward.reads for reward in rewards})
        if len(kinds) != 1:
            got = " beside ".join(kinds) or "none"
            raise ValueError(f"got rewards that read {got}, expected one or more that read alike")
        self.rewards, self.reads = tuple(rewards), kinds[0]

    @property
    def entries(self) -> int:
        """One for each reward."""
        return len(self.rewards)

    def for_entries(self, rows: Sequence[int]) -> Reward:
        """The rewards of such a batch."""
        return PerPrompt([self.rewards[row] for row in rows])

    @property
    def noise_aware(self) -> bool:
        """Whether all of them are."""
        return all(reward.noise_aware for reward in self.rewards)

    @property
    def guidance(self) -> dict[str, Any]:
        """Of the first."""
        return self.rewards[0].guidance

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:
        """Of every one."""
        for reward in self.rewards:
            reward.check_autoencoder(autoencoder)

    def split(self) -> tuple[tuple[float, Reward], ...]:
        """A term for what they read of each kind."""
        kinds = sorted({term.reads for _, term in self.rewards[0].split()})
        if len(kinds) == 1:
            return ((1.0, self),)
        return tuple((1.0, self._reading(kind)) for kind in kinds)

    def _reading(self, kind: str) -> PerPrompt:
        parts = [terms_that_read(reward, kind) for reward in self.rewards]
        return PerPrompt([part for part in parts if part is not None])

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self._each(
            len(images),
            generators,
            lambda reward, rows, own: reward(images[rows], generators=own),
        )

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """Of each latent that of its reward."""
        return self._each(
            len(latents),
            generators,
            lambda reward, rows, own: reward.of_latents(latents[rows], sigma_bar, generators=own),
        )

    def _each(
        self,
        batch: int,
        generators: Generators | None,
        value_of: Callable[[Reward, Tensor, Generators | None], Tensor],
    ) -> Tensor:
        """(B,), in the order of the batch."""
        whose = [id(self.rewards[i]) for i in entry_of_each(batch, self.entries).tolist()]
        known = {id(reward): reward for reward in self.rewards}
        places: list[int] = []
        values: list[Tensor] = []
        for one in dict.fromkeys(whose):
            rows = [i for i, other in enumerate(whose) if other == one]
            own = None if generators is None else [generators[i] for i in rows]
            with of_samples(rows):
                values.append(value_of(known[one], torch.tensor(rows), own))
            places += rows
        return torch.cat(values)[torch.tensor(places).argsort()]
