"""Two sets of scores of the same things: the difference of their means, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Means of both, and of a - b with the interval that holds the true one `confidence` often.

    `interval` is None where one pair says nothing about the spread.
    """

    pairs: int
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float] | None
    confidence: float


def paired_difference(
    a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Student's interval for the mean of a[i] - b[i], of pairs independent of one another.

    Args:
        a, b: N finite scores each; several scores of one image are averaged before.
        confidence: in (0, 1).

    Raises:
        ValueError: no pairs, not as many of each, a number that is not finite.

    Example:
        >>> paired_difference([3.0, 5.0], [1.0, 2.0]).difference
        2.5
    """
    if not a or len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} scores, expected as many, at least one")
    if not all(map(math.isfinite, (*a, *b))):
        raise ValueError("got a score that is not finite, expected numbers")
    if not 0 < confidence < 1:
        raise ValueError(f"got confidence {confidence}, expected a number in (0, 1)")
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, count = fmean(differences), len(differences)
    interval = None
    if count > 1:
        half = t_quantile(confidence, count - 1) * stdev(differences) / math.sqrt(count)
        interval = (mean - half, mean + half)
    return PairedDifference(count, fmean(a), fmean(b), mean, interval, confidence)


def t_quantile(confidence: float, freedom: int) -> float:
    """t with P(|T| < t) = `confidence` for Student's T of `freedom` degrees, by bisection."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < confidence:
        high *= 2.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        if middle in (low, high):
            break
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return (low + high) / 2.0


def _within(t: float, freedom: int) -> float:
    """P(|T| < t): the finite series of Abramowitz and Stegun, 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return (angle + math.sin(angle) * total) * 2.0 / math.pi
    return math.sin(angle) * total
