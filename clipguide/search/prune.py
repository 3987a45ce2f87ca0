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
        total = rollout.calls()
        early = min(max(1, round(self.at * total)), total)
        count = self.started(budget, early, total)
        paths = [Path(s) for s in image_seeds(seed, count)]
        paths, scores = rollout.advance(paths, early)
        order = sorted(range(count), key=lambda i: (-scores[i], i))
        kept = [paths[i] for i in sorted(order[: self.finished(count)])]
        return best_first(rollout.candidates([p.seed for p in kept], rollout.finish(kept)))

    def finished(self, count: int) -> int:
        """K, how many of `count` samples are finished."""
        return max(1, math.floor(self.keep * count))

    def started(self, budget: int, early: int, total: int) -> int:
        """N, the most samples that stay within the budget; at least `budget`."""
        count = budget
        while self._calls(count + 1, early, total) <= budget * total:
            count += 1
        return count

    def _calls(self, count: int, early: int, total: int) -> int:
        return count * early + self.finished(count) * (total - early)
