"""What choosing among n pictures gains, for every n, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CurvePoint:
    """What is expected of the best of n by a scorer.

    Attributes:
        n: pictures that are chosen among.
        mean: over prompts, of what is judged.
        low, high: bootstrap interval over prompts, 95 %.
    """

    n: int
    mean: float
    low: float
    high: float


def best_of_curve(
    scores: Floats,
    judged: Floats | None = None,
    ns: Sequence[int] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> list[CurvePoint]:
    """The expected judgement of the picture of highest score among n, for each n.

    Exact over all subsets of n of a prompt's M pictures (no subset is drawn): the picture of rank r
    is the best of C(M-1-r, n-1) of the C(M, n). Ties in score share a rank's place by order.

    Args:
        scores: (P, M), what chooses.
        judged: (P, M), what is asked of the chosen picture; None: the scores themselves.
        ns: from 1 to M; None: 1, 2, 4, ... and M.
        resamples: of the prompts, for the interval.
        seed: of those.

    Raises:
        ValueError: arrays of another or unequal shape or not finite, an n out of range.

    Example:
        >>> found = best_of_curve(np.array([[1.0, 2.0, 3.0]]), ns=[1, 3])
        >>> [round(point.mean, 6) for point in found]
        [2.0, 3.0]

    Source: the unbiased estimator of the best of n, Nakano et al. 2021 (WebGPT,
    https://arxiv.org/abs/2112.09332; by name, the place was not looked up); bootstrap, Efron 1979.
    """
    chosen = scores if judged is None else judged
    if scores.ndim != 2 or scores.shape != chosen.shape or not scores.size:
        raise ValueError(f"got {scores.shape} and {chosen.shape}, expected (P, M) of both")
    if not (np.isfinite(scores).all() and np.isfinite(chosen).all()):
        raise ValueError("got a score or judgement that is not finite, expected numbers")
    prompts, pictures = scores.shape
    asked = _powers(pictures) if ns is None else [*ns]
    if not all(1 <= n <= pictures for n in asked):
        raise ValueError(f"got ns={asked}, expected 1 to {pictures}")
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(chosen, order, axis=1)  # (P, M), best score first
    rows = np.random.default_rng(seed).integers(prompts, size=(resamples, prompts))
    return [_point(n, ranked @ _chances(n, pictures), rows) for n in asked]


def _powers(largest: int) -> list[int]:
    return sorted({*(2**k for k in range(largest.bit_length()) if 2**k <= largest), largest})


def _chances(n: int, pictures: int) -> Floats:
    """(M,): how probably the picture of each rank is the best of n drawn without replacement."""
    total = math.comb(pictures, n)
    return np.array([math.comb(pictures - 1 - rank, n - 1) / total for rank in range(pictures)])


def _point(n: int, per_prompt: Floats, rows: NDArray[np.int64]) -> CurvePoint:
    low, high = np.quantile(per_prompt[rows].mean(axis=1), [0.025, 0.975])
    return CurvePoint(n, float(per_prompt.mean()), float(low), float(high))
