"""Rules by which items are kept or dropped, and how many each of them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """A threshold on a number of each item.

    Attributes:
        values: (N,) float64; NaN for an item that has none, which is dropped.
        threshold: items at it or above are kept, or with `below` those below it alone.
        below: which side is kept.
    """

    values: Tensor
    threshold: float
    below: bool = False

    def kept(self) -> Tensor:
        """(N,) whether an item is on the side that is kept."""
        return self.values < self.threshold if self.below else self.values >= self.threshold

    def sides(self, count: int) -> tuple[list[int], list[int]]:
        """Places of the `count` items nearest to the threshold on the kept and the dropped side,
        nearest first."""
        far = (self.values - self.threshold).abs()
        order: list[int] = far.argsort(stable=True).tolist()
        kept = self.kept().tolist()
        there = [place for place in order if not self.values[place].isnan()]
        inside = [place for place in there if kept[place]]
        outside = [place for place in there if not kept[place]]
        return inside[:count], outside[:count]


@dataclass(frozen=True)
class Rule:
    """One reason to drop items.

    Attributes:
        name: of its column.
        says: what is kept, for people.
        kept: (N,) bool.
        cut: where there is a threshold.
    """

    name: str
    says: str
    kept: Tensor
    cut: Cut | None = None

    @staticmethod
    def of(name: str, says: str, cut: Cut) -> Rule:
        """The rule of a threshold."""
        return Rule(name, says, cut.kept(), cut)


@dataclass(frozen=True)
class Taken:
    """How many items a rule drops, and how many of these no other rule drops."""

    dropped: int
    alone: int


def kept_by_all(rules: Sequence[Rule]) -> Tensor:
    """(N,) whether no rule drops an item."""
    return torch.stack([rule.kept for rule in rules]).all(dim=0)


def taken(rules: Sequence[Rule]) -> list[Taken]:
    """What each of one or more rules takes.

    Example:
        >>> rules = [Rule("a", "", torch.tensor([True, False, False])),
        ...          Rule("b", "", torch.tensor([True, True, False]))]
        >>> taken(rules)
        [Taken(dropped=2, alone=1), Taken(dropped=1, alone=0)]
    """
    dropped = torch.stack([~rule.kept for rule in rules])  # (R, N)
    once = dropped.sum(dim=0) == 1
    return [Taken(int(own.sum()), int((own & once).sum())) for own in dropped]
