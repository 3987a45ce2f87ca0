"""Items that repeat an earlier one: of near-duplicates all but the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.batching import slices

_BLOCK = 256  # rows compared with all earlier ones at a time
_NONE = -1.0  # cosine of the first item, which has none before it
_BELOW_ALL = -2.0


@dataclass(frozen=True)
class Repeats:
    """How near each of N items is to the nearest of those before it that are no repeats.

    Attributes:
        cosines: (N,) with that item; -1 for the first.
        twins: places of these items; -1 for the first.
    """

    cosines: Tensor
    twins: Sequence[int]


def find_repeats(vectors: Tensor, contents: Sequence[int], threshold: float) -> Repeats:
    """Which items repeat one that stays, in their order: the first of several alike stays.

    An item is a repeat when its cosine with an earlier one that is no repeat is at least
    `threshold`, so no two that stay are as near as that; a chain of likenesses drops nothing at its
    far end, unlike the groups of `clipguide.retrieval.duplicates`.

    Args:
        vectors: (N, D) unit vectors, of float16 good to three decimals.
        contents: ids; two of one id are alike by 1.
        threshold: a cosine in (0, 1].

    Cost: N * N * D / 2 multiplications in blocks of `_BLOCK` rows; no model.

    Raises:
        ValueError: a threshold outside (0, 1].

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> find_repeats(vectors, [7, 8, 9], 0.9).twins
        [-1, 0, 0]
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"got threshold {threshold}, expected a cosine in (0, 1]")
    rows = torch.nn.functional.normalize(vectors.float(), dim=1)
    ids = torch.tensor(contents)
    repeats = torch.zeros(len(rows), dtype=torch.bool)
    cosines, twins = torch.full((len(rows),), _NONE), torch.full((len(rows),), -1)
    for block in slices(len(rows), _BLOCK):
        near = (rows[block] @ rows[: block.stop].T).clamp(max=1.0)  # (b, all up to the last)
        near[ids[block, None] == ids[None, : block.stop]] = 1.0
        for place, own in enumerate(near, block.start):
            if place == 0:
                continue
            before = own[:place]
            best = before.masked_fill(repeats[:place], _BELOW_ALL).max(dim=0)
            repeats[place] = best.values >= threshold
            cosines[place], twins[place] = best.values, best.indices
    return Repeats(cosines, twins.tolist())
