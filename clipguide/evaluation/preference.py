"""Is one setting better than another, on pictures of the same prompts and seeds?

Win rate with a bootstrap interval, Wilcoxon's signed-rank test, and Holm's correction where several
settings are compared.

Wilcoxon 1945 (https://doi.org/10.2307/3001968), pairs that tie left out of the test; Hesterberg
2015, What Teachers Should Know About the Bootstrap (https://arxiv.org/abs/1411.5279): percentiles
widened to Student's t; Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure
(Scand. J. Statist. 6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from clipguide.evaluation.paired import t_quantile

EXACT = 100
"""Up to so many differing pairs the test is exact, given the ties among them."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Preference:
    """How often a is better than b.

    Attributes:
        pairs: how many pairs of the same prompt and seed.
        wins, ties, losses: of a, one for each pair.
        win_rate: in percent, a tie is half a win; 50: neither is better.
        interval: of the win rate, 95 %.
        p_value: of Wilcoxon's two-sided signed-rank test of the differences.
    """

    pairs: int
    wins: int
    ties: int
    losses: int
    win_rate: float
    interval: tuple[float, float]
    p_value: float


def preference(
    a: Sequence[float], b: Sequence[float], *, samples: int = 1000, seed: int = 0
) -> Preference:
    """a[i] and b[i] are scores of pictures of one prompt and seed; higher is better.

    Pairs are taken for independent: several seeds of one prompt are averaged before.

    Args:
        a, b: N finite scores each, N at least 2.
        samples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: not as many of each, fewer than 2, a score that is not finite (its place).

    Example:
        >>> preference([3.0, 5.0, 4.0], [1.0, 2.0, 4.0]).wins
        2
    """
    difference = _differences(a, b)
    shares = (np.sign(difference) + 1) / 2  # 1 a win, 1/2 a tie
    low, high = bootstrap_mean(shares, samples=samples, seed=seed)
    return Preference(
        pairs=len(difference),
        wins=int((difference > 0).sum()),
        ties=int((difference == 0).sum()),
        losses=int((difference < 0).sum()),
        win_rate=100 * float(shares.mean()),
        interval=(100 * low, 100 * high),
        p_value=wilcoxon(a, b),
    )


def bootstrap_mean(
    values: Sequence[float] | Values, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean, by percentiles of resampled means.

    Plain percentiles are too narrow for few values: these are moved outwards until they would be
    Student's interval for a normal sample. Raises ValueError for fewer than 2 values.

    Example:
        >>> bootstrap_mean([1.0, 1.0])
        (1.0, 1.0)
    """
    sample = np.asarray(values, dtype=float)
    count = len(sample)
    if count < 2:
        raise ValueError(f"got {count} values, expected at least 2")
    random = np.random.default_rng(seed)
    means = np.array([sample[random.integers(count, size=count)].mean() for _ in range(samples)])
    outward = t_quantile(0.95, count - 1) * math.sqrt(count / (count - 1))
    tail = 100 * NormalDist().cdf(-outward)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def wilcoxon(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value of the signed-rank test; 1 where every pair ties.

    Ties among the differences share their mean rank. Up to `EXACT` differing pairs the p-value is
    that of all assignments of signs to these ranks; above, the normal approximation with the
    variance of the ranks as they are, without correction for continuity.

    Raises:
        ValueError: see `preference`.

    Example:
        >>> wilcoxon([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
        0.25
    """
    difference = _differences(a, b)
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    doubled = _doubled_ranks(np.abs(difference))
    positive = int(doubled[difference > 0].sum())
    total = int(doubled.sum())
    if len(difference) <= EXACT:
        return _exact(doubled, min(positive, total - positive))
    deviation = math.sqrt(float((doubled.astype(float) ** 2).sum())) / 2
    return 2 * NormalDist().cdf(-abs(positive - total / 2) / deviation)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for how many there are, in their order: the step-down rule.

    Raises:
        ValueError: a value outside [0, 1].

    Example:
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    for value in p_values:
        if not 0 <= value <= 1:
            raise ValueError(f"got p-value {value}, expected a number in [0, 1]")
    corrected = [0.0] * len(p_values)
    least = 0.0
    for done, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[place]))
        corrected[place] = least
    return corrected


def _differences(a: Sequence[float], b: Sequence[float]) -> Values:
    if len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} scores, expected as many")
    if len(a) < 2:
        raise ValueError(f"got {len(a)} pairs, expected at least 2")
    for side, values in (("a", a), ("b", b)):
        for place, value in enumerate(values):
            if not math.isfinite(value):
                raise ValueError(f"got score {value} of picture {place} of {side}, not finite")
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)


def _doubled_ranks(values: Values) -> NDArray[np.int64]:
    """Twice the rank of each, equal ones sharing their mean: whole numbers."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return (below + up_to + 1).astype(np.int64)


def _exact(doubled: NDArray[np.int64], smaller: int) -> float:
    """2 P(sum of the ranks with a plus <= `smaller`), by the distribution of all the signs."""
    chance: Values = np.zeros(int(doubled.sum()) + 1)
    chance[0] = 1.0
    for rank in doubled.tolist():
        moved = np.zeros_like(chance)
        moved[rank:] = chance[:-rank]
        chance = (chance + moved) / 2
    return min(1.0, 2 * float(chance[: smaller + 1].sum()))
