"""How many samples a pruned search has at each step: whole numbers out of shares and a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PruningPlan:
    """When a pruned search looks at its samples, and how many go on.

    Attributes:
        calls: denoiser calls made by each sample before each look, ascending.
        counts: samples started, then those that go on after each look; the last are finished.
    """

    calls: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def started(self) -> int:
        """N, the samples begun."""
        return self.counts[0]

    @property
    def finished(self) -> int:
        """K, the samples finished."""
        return self.counts[-1]


def pruning_plan(
    at: Sequence[float], keep: Sequence[float], budget: int, total: int
) -> PruningPlan:
    """The plan that starts as many samples as `budget` trajectories of `total` calls allow.

    After look j a share keep[j] of the samples started goes on, rounded, at least one. What is then
    left of the budget lets more go on, after the last look first, so that more are finished. A look
    after which as many go on as before is left out: it would cost a preview and change nothing.
    """
    looks: dict[int, float] = {}  # calls -> share; of two looks at one step the later counts
    for share, kept in zip(at, keep, strict=True):
        looks[min(max(1, round(share * total)), total)] = kept

    def counts_of(count: int) -> list[int]:
        shares = looks.values()
        return [count, *(min(count, max(1, math.floor(s * count + 0.5))) for s in shares)]

    def fits(counts: Sequence[int]) -> bool:
        return _calls(list(looks), counts, total) <= budget * total

    count = budget
    while fits(counts_of(count + 1)):
        count += 1
    counts = counts_of(count)
    for place in reversed(range(1, len(counts))):
        while counts[place] < counts[place - 1]:
            more = [*counts[:place], counts[place] + 1, *counts[place + 1 :]]
            if not fits(more):
                break
            counts = more
    dropping = [place for place in range(len(looks)) if counts[place + 1] < counts[place]]
    calls = tuple(list(looks)[place] for place in dropping)
    return PruningPlan(calls, (count, *(counts[place + 1] for place in dropping)))


def _calls(looks: Sequence[int], counts: Sequence[int], total: int) -> int:
    """Denoiser calls of all samples together."""
    ends = [*looks, total]
    begins = [0, *looks]
    spans = zip(counts, begins, ends, strict=True)
    return sum(count * (end - begin) for count, begin, end in spans)
