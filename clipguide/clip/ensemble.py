"""Several scorers as one: their ranks or their scores, averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from clipguide.clip.image_arrays import Images

BY = ("rank", "score")


class Member(Protocol):
    """What an ensemble asks of a scorer."""

    @property
    def name(self) -> str: ...

    def score(self, images: Images, prompts: str) -> Tensor: ...  # (B,), higher is better


class Ensemble:
    """Scorers that decide together; one itself, so that a cascade may hold it.

    - by="rank": Σ w·(share of the images that a scorer puts below an image, ties counting half):
      in [0, 1] with weights that sum to 1, and no scorer's scale counts for more than another's.
      The score of an image depends on the others it is ranked among.
    - by="score": Σ w·score, for scorers on one scale.

    Args:
        scorers: two or more.
        weights: one for each, 0 or more, of which one is above 0; None: equal. They are divided by
            their sum.
        by: "rank" or "score".

    Cost: one image embedding per image and scorer.

    Raises:
        ValueError: fewer than two scorers, weights that do not fit, another `by`; a score that is
            not finite.

    Example:
        >>> both = Ensemble([scorer, scorer], weights=[2, 1])
        >>> both.score(files, "a fox").shape
        torch.Size([2])

    Source: Borda 1781, rank averaging (Dwork et al. 2001, Rank Aggregation Methods for the Web,
    section 3, https://doi.org/10.1145/371920.372165).
    """

    def __init__(
        self,
        scorers: Sequence[Member],
        weights: Sequence[float] | None = None,
        by: str = "rank",
    ) -> None:
        given_as: Any = scorers
        members: list[Member] = [*scorers] if isinstance(given_as, Sequence) else [given_as]
        for one in members:
            if not hasattr(one, "score"):
                raise ValueError(f"got a scorer of type {type(one).__name__}, expected a Scorer")
        if len(members) < 2:
            raise ValueError(f"got {len(members)} scorers, expected two or more")
        if by not in BY:
            raise ValueError(f"got by={by!r}, expected one of {', '.join(BY)}")
        given = [1.0] * len(scorers) if weights is None else [float(w) for w in weights]
        good = all(math.isfinite(w) and w >= 0 for w in given) and sum(given) > 0
        if len(given) != len(members) or not good:
            raise ValueError(
                f"got weights {weights}, expected {len(members)} finite numbers >= 0, not all 0"
            )
        self.scorers, self.by = members, by
        self.weights = [weight / sum(given) for weight in given]

    @property
    def name(self) -> str:
        """Those of its scorers."""
        return " + ".join(scorer.name for scorer in self.scorers)

    def score(self, images: Images, prompts: str) -> Tensor:
        """(B,) on the CPU, higher is better."""
        total = torch.zeros(())
        for weight, scorer in zip(self.weights, self.scorers, strict=True):
            scores = scorer.score(images, prompts).detach().double().cpu()  # (B,)
            if not bool(scores.isfinite().all()):
                place = int((~scores.isfinite()).nonzero()[0])
                raise ValueError(f"{scorer.name}: got score {scores[place]} for image {place}")
            total = total + weight * (rank_shares(scores) if self.by == "rank" else scores)
        return total


def rank_shares(scores: Tensor) -> Tensor:
    """For each score the share of the others below it, ties counting half; (B,) in [0, 1], 1/2 of
    a single one."""
    others = len(scores) - 1
    if others == 0:
        return torch.full_like(scores, 0.5)
    ordered = scores.sort().values
    below = torch.searchsorted(ordered, scores)
    upto = torch.searchsorted(ordered, scores, right=True)
    return (below + upto - 1).to(scores) / 2 / others
