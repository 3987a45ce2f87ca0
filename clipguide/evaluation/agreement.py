"""Does a score rank captions as people do? Kendall tau-c over single ratings, with an interval.

Hessel et al. 2021, CLIPScore (https://arxiv.org/abs/2104.08718), section 4.1: every rating of every
person is one sample beside the score of its pair, nothing is averaged first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipguide.evaluation.kendall import kendall_tau_c


@dataclass(frozen=True)
class Agreement:
    """`tau_c` in percent, its 95 % interval, and the number of ratings it is over."""

    tau_c: float
    interval: tuple[float, float]
    ratings: int


def agreement(
    scores: Sequence[float],
    ratings: Sequence[Sequence[float]],
    groups: Sequence[str],
    *,
    samples: int = 200,
    seed: int = 0,
) -> Agreement:
    """How well scores agree with people.

    Args:
        scores: (N,) one a pair of image and caption.
        ratings: (N, k) what people said of each pair.
        groups: (N,) the image of each pair; the bootstrap draws images with all their pairs.
        samples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: not as many of each, or what `kendall_tau_c` refuses.
    """
    if not len(scores) == len(ratings) == len(groups):
        got = f"{len(scores)} scores, {len(ratings)} rated pairs and {len(groups)} images"
        raise ValueError(f"got {got}, expected as many of each")
    for place, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"got score {score} of pair {place}, expected finite numbers")
    counts = np.array([len(row) for row in ratings])
    flat: NDArray[np.float64] = np.array([value for row in ratings for value in row], dtype=float)
    repeated = np.repeat(np.asarray(scores, dtype=float), counts)
    tau = 100 * kendall_tau_c(repeated, flat)
    owners = np.repeat(np.asarray(groups), counts)
    values = [
        100 * kendall_tau_c(repeated[drawn], flat[drawn])
        for drawn in drawn_again(owners, samples=samples, seed=seed)
        if len(np.unique(flat[drawn])) > 1 and len(np.unique(repeated[drawn])) > 1
    ]
    low, high = np.percentile(values, [2.5, 97.5]) if values else (tau, tau)
    return Agreement(tau, (float(low), float(high)), len(flat))


def drawn_again(
    groups: Sequence[str] | NDArray[np.str_], *, samples: int = 200, seed: int = 0
) -> Iterator[NDArray[np.intp]]:
    """Places of a bootstrap over groups: as many groups as there are, with replacement, each with
    all of its places; `samples` times.

    Args:
        groups: (N,) the group of each place.
        samples, seed: of the bootstrap.

    Example:
        >>> [places.tolist() for places in drawn_again(["a", "b", "a"], samples=2)]
        [[1, 1], [1, 0, 2]]
    """
    owners = np.unique(np.asarray(groups), return_inverse=True)[1]
    places = np.argsort(owners, kind="stable")
    members = np.split(places, np.cumsum(np.bincount(owners))[:-1])
    random = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.concatenate([members[i] for i in random.integers(len(members), size=len(members))])
