"""Zero-order search over the starting noise: look around the best noise found so far.

Ma et al. 2025, "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
https://arxiv.org/abs/2501.09732 (Section 3.2, zero-order search). No gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from clipguide.batching import batches
from clipguide.search.candidate import Candidate, best_first
from clipguide.search.numbers import check_numbers
from clipguide.search.pictures import Pictures
from clipguide.search.rollout import Rollout
from clipguide.search.works import Around
from clipguide.seeds import image_seeds

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NoiseSearch:
    """Rounds of neighbours around the best starting noise, the pivot.

    The first round is `neighbours` independent noises (as "best_of"). In each further round the
    neighbours are y = sqrt(1 - radius²)·pivot + radius·fresh: standard normal again, so the
    denoiser sees nothing it does not know. The pivot moves only to a strictly better image.

    Attributes:
        neighbours: images per round, 1 or more.
        radius: in (0, 1]; 1 is best_of.

    Cost: exactly `budget` trajectories; per image one decode and one reward. Returns every image.
    Raises: ValueError for a pipeline that does not start from pure noise.
    """

    neighbours: int = 4
    radius: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.neighbours < 1:
            raise ValueError(f"got neighbours={self.neighbours}, expected 1 or more")
        if not 0 < self.radius <= 1:
            raise ValueError(f"got radius={self.radius}, expected a number in (0, 1]")

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        return best_first(one for found in self.rounds(rollout, budget, seed) for one in found)

    def rounds(self, rollout: Rollout, budget: int, seed: int) -> Iterator[list[Candidate]]:
        """Round after round."""
        rollout.require_pure_noise()
        seeds = image_seeds(seed, budget)
        pivot, best = cast("Tensor | None", None), -math.inf
        for neighbours in batches(seeds, self.neighbours):
            items = [(own, pivot) for own in neighbours]
            made = rollout.together(Around(self.radius), items)
            pictures = Pictures.joined([picture for _, picture in made])
            candidates = rollout.candidates(neighbours, pictures)
            for (noise, _), candidate in zip(made, candidates, strict=True):
                if candidate.score > best:
                    pivot, best = noise, candidate.score
            yield candidates
