"""Kendall's tau-b and tau-c: do a score and a rating put things in the same order?

Stuart 1953, The Estimation and Comparison of Strengths of Association in Contingency Tables
(Biometrika 40), section 3; the figure in which caption metrics are compared with people.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DIRECT = 32  # values among which inversions are counted pair by pair

Ranks = NDArray[np.int64]


def kendall_tau_c(scores: ArrayLike, ratings: ArrayLike) -> float:
    """2 (P - Q) / (n² (m - 1) / m), in [-1, 1].

    P and Q are the pairs that both put in the same and in opposite order (a pair that either ties
    is neither), m the smaller number of different values of the two. Exact, in n log² n steps;
    equal to `scipy.stats.kendalltau(variant="c")`.

    Args:
        scores, ratings: (n,) numbers, n at least 2.

    Raises:
        ValueError: other shapes, a number that is not finite, or one value throughout.

    Example:
        >>> kendall_tau_c([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])
        1.0
    """
    x, y = _ranks(scores, ratings)
    least = int(min(x.max(), y.max())) + 1
    return 2 * _agreeing_minus_opposed(x, y) / (len(x) ** 2 * (least - 1) / least)


def kendall_tau_b(scores: ArrayLike, ratings: ArrayLike) -> float:
    """(P - Q) / √((n0 - n1)(n0 - n2)), in [-1, 1]; 1 where both have the same ties and order.

    n0 is the number of pairs, n1 and n2 those tied in each (Kendall 1945, The Treatment of Ties in
    Ranking Problems, Biometrika 33). Otherwise as `kendall_tau_c`; equal to
    `scipy.stats.kendalltau(variant="b")`.

    Example:
        >>> kendall_tau_b([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4])
        1.0
    """
    x, y = _ranks(scores, ratings)
    pairs = len(x) * (len(x) - 1) // 2
    untied = (pairs - _ties(x)) * (pairs - _ties(y))
    return _agreeing_minus_opposed(x, y) / math.sqrt(untied)


def _ranks(scores: ArrayLike, ratings: ArrayLike) -> tuple[Ranks, Ranks]:
    """Dense ranks of both, checked as `kendall_tau_c` says."""
    x, y = np.asarray(scores, dtype=float), np.asarray(ratings, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"got shapes {x.shape} and {y.shape}, expected the same (n,), n >= 2")
    for what, values in (("score", x), ("rating", y)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(f"got {what} {values[bad[0]]} at {bad[0]}, expected finite numbers")
    x_rank, y_rank = _dense(x), _dense(y)
    if min(x_rank.max(), y_rank.max()) < 1:
        raise ValueError("got one value throughout, expected scores and ratings that differ")
    return x_rank, y_rank


def _dense(values: NDArray[np.float64]) -> Ranks:
    ranks: Ranks = np.unique(values, return_inverse=True)[1].astype(np.int64).reshape(-1)
    return ranks


def _agreeing_minus_opposed(x: Ranks, y: Ranks) -> int:
    """P - Q. In the order of (x, y), Q is the inversions of y; all pairs - ties = P + Q."""
    order = np.lexsort((y, x))
    both = x * (int(y.max()) + 1) + y
    untied = len(x) * (len(x) - 1) // 2 - _ties(x) - _ties(y) + _ties(both)
    return untied - 2 * _inversions(y[order])


def _ties(ranks: Ranks) -> int:
    counts = np.unique(ranks, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: Ranks) -> int:
    """Pairs i < j with values[i] > values[j], by halves."""
    if len(values) <= _DIRECT:
        return int(np.triu(values[:, None] > values[None, :]).sum())
    left, right = values[: len(values) // 2], values[len(values) // 2 :]
    across = len(left) - np.searchsorted(np.sort(left), right, side="right")
    return _inversions(left) + _inversions(right) + int(across.sum())
