"""A threshold picked between examples, with its precision and recall on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PickedThreshold:
    """A threshold and how it parts the examples it was picked from.

    Attributes:
        threshold: half way between two neighbouring examples; at it or above is "yes".
        precision: of the examples at it or above the share that are "yes", in [0, 1].
        recall: of those that are "yes" the share at it or above, in [0, 1].
        examples: how many there were.
        between: the values of its neighbours.
    """

    threshold: float
    precision: float
    recall: float
    examples: int
    between: tuple[float, float]


def pick_threshold(values: Tensor, truth: Tensor) -> PickedThreshold:
    """The threshold with the largest difference of the share of "yes" examples at or above it and
    the share of "no" examples there (Youden 1950), half way between two examples.

    Of several as good, the one with the most room between its neighbours, then the lowest.

    Args:
        values: (E,) a finite number of each example.
        truth: (E,) bool, "yes" or "no".

    Raises:
        ValueError: examples of one kind alone; none between two of which the "yes" lie higher; a
            value that is not finite.

    Example:
        >>> pick_threshold(torch.tensor([0.0, 1.0, 3.0]), torch.tensor([False, False, True]))
        PickedThreshold(threshold=2.0, precision=1.0, recall=1.0, examples=3, between=(1.0, 3.0))
    """
    if values.shape != truth.shape or values.ndim != 1 or not bool(values.isfinite().all()):
        got = f"values {tuple(values.shape)} and truth {tuple(truth.shape)}"
        raise ValueError(f"got {got}, expected as many finite numbers as answers")
    yes, no = int(truth.sum()), int((~truth).sum())
    if not yes or not no:
        raise ValueError(f"got {yes} examples to keep and {no} to drop, expected some of both")
    order = values.double().argsort()
    ranked, right = values.double()[order], truth[order].double()
    lower, upper = ranked[:-1], ranked[1:]
    hits = right.flip(0).cumsum(0).flip(0)[1:]  # "yes" at `upper` or above, for each gap
    above = torch.arange(len(ranked) - 1, 0, -1).double()
    gain = hits * no - (above - hits) * yes  # times yes * no: whole numbers, so ties are exact
    gain[upper <= lower] = -torch.inf  # equal values cannot be parted
    if not bool((gain > 0).any()):
        raise ValueError(
            f"got {yes} examples to keep and {no} to drop, and between no two of them lies a "
            "threshold with more of those to keep above it: other phrases, or more examples"
        )
    best = (gain == gain.max()).nonzero().flatten()
    place = int(best[(upper - lower)[best].argmax()])
    low, high = float(lower[place]), float(upper[place])
    return PickedThreshold(
        (low + high) / 2, float(hits[place] / above[place]), float(hits[place]) / yes,
        len(ranked), (low, high),
    )  # fmt: skip
