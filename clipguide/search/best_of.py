"""Best of N: independent samples, ordered by reward. The baseline every other method must beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clipguide.search.candidate import Candidate, best_first
from clipguide.search.rollout import Rollout
from clipguide.seeds import image_seeds


@dataclass(frozen=True)
class BestOf:
    """N = budget independent images from seeds `seed, seed + 1, ...`, all returned.

    Cost: exactly `budget` trajectories; per image one decode and one reward.
    Source: Karthik et al. 2023, "If at First You Don't Succeed, Try, Try Again",
    https://arxiv.org/abs/2305.13308.
    """

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        return best_first(one for found in self.rounds(rollout, budget, seed) for one in found)

    def rounds(self, rollout: Rollout, budget: int, seed: int) -> Iterator[list[Candidate]]:
        """Batch after batch."""
        for seeds in rollout.batches(image_seeds(seed, budget)):
            yield rollout.candidates(seeds, rollout.pictures(seeds))
