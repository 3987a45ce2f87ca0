"""Best of N with early pruning: look at a preview of each sample, finish only the promising."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipguide.search.candidate import Candidate, best_first
from clipguide.search.rollout import Path, Rollout
from clipguide.seeds import image_seeds


@dataclass(frozen=True)
class Prune:
    """Denoise N samples for the first steps, score their x0 previews, finish the best ones.

    A preview after a quarter of the steps tells most of what the finished image will score. The
    survivors are finished exactly as if they had never been stopped.

    Attributes:
        at: the share of the denoiser calls made before the preview, in (0, 1); at least one call.
        keep: the share of the samples that is finished, in (0, 1]; at least one.

    Cost: with T calls per trajectory and k = round(at·T), N·k + K·(T - k) denoiser calls, where N
    is the largest number, with K = max(1, floor(keep·N)), that stays within budget·T. Defaults
    give N = 37, K = 9 for a budget of 16 and T = 20. Also N previews (decode, reward) and K final
    rewards. Returns the K finished images.
    """

    at: float = 0.25
    keep: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise ValueError(f"got at={self.at}, expected a share of the steps in (0, 1)")
        if not 0 < self.keep <= 1:
            raise ValueError(f"got keep={self.keep}, expected a share of the samples in (0, 1]")

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        early, count, finished = self.plan(budget, rollout.calls())
        paths = [Path(s) for s in image_seeds(seed, count)]
        paths, scores = rollout.advance(paths, early)
        order = sorted(range(count), key=lambda i: (-scores[i], i))
        kept = [paths[i] for i in sorted(order[:finished])]
        return best_first(rollout.candidates([p.seed for p in kept], rollout.finish(kept)))

    def plan(self, budget: int, total: int) -> tuple[int, int, int]:
        """Calls before the preview, samples started, samples finished, of `total` calls each."""
        early = min(max(1, round(self.at * total)), total)

        def calls(count: int) -> int:
            return count * early + self._finished(count) * (total - early)

        count = budget
        while calls(count + 1) <= budget * total:
            count += 1
        return early, count, self._finished(count)

    def seeds(self, budget: int) -> int:
        """As many seeds as a search may draw from: if N were budget/keep or more, finishing would
        cost the whole budget."""
        return math.ceil(budget / self.keep)

    def _finished(self, count: int) -> int:
        return max(1, math.floor(self.keep * count))
