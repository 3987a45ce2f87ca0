"""The number of each item that a rule compares with its threshold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipguide.batching import slices

_BLOCK = 4096  # rows made float32 at a time


def margins(vectors: Tensor, keep: Tensor, drop: Tensor) -> Tensor:
    """(N,) the best cosine with what is kept less the best with what is dropped.

    Zero-shot classification (Radford et al. 2021, section 3.1) into two classes of several labels
    each, as a number: above 0 the likeliest label is one to keep.

    Args:
        vectors: (N, D) unit vectors of images.
        keep, drop: (L, D) unit vectors of labels, see `clipguide.zero_shot.label_vectors`.
    """
    return torch.cat(
        [
            (rows @ keep.T).amax(dim=1) - (rows @ drop.T).amax(dim=1)
            for rows in (vectors[block].float() for block in slices(len(vectors), _BLOCK))
        ]
    )


def agreements(vectors: Tensor, texts: Tensor, owners: Tensor) -> Tensor:
    """(C,) cosine of each text with its image.

    Args:
        vectors: (N, D) unit vectors of images.
        texts: (C, D) unit vectors of texts.
        owners: (C,) the place of the image that each text is of.
    """
    blocks = slices(len(texts), _BLOCK)
    parts = [(vectors[owners[b]].float() * texts[b].float()).sum(dim=1) for b in blocks]
    return torch.cat(parts)


def best_of_each(values: Tensor, owners: Tensor, count: int) -> Tensor:
    """(count,) the largest value of each owner; NaN for one without any."""
    best = torch.full((count,), -torch.inf)
    best = best.scatter_reduce(0, owners, values, reduce="amax")
    return best.masked_fill(best.isinf(), torch.nan)


def ratings(vectors: Tensor, head: nn.Module) -> Tensor:
    """(N,) what an aesthetic head says of (N, D) vectors.

    Raises:
        ValueError: a head for vectors of another length.
    """
    width = next(head.parameters()).shape[1]
    if width != vectors.shape[1]:
        got = f"got an aesthetic head for vectors of {width} numbers"
        raise ValueError(f"{got}, expected {vectors.shape[1]}, those of the scorer")
    with torch.no_grad():
        blocks = slices(len(vectors), _BLOCK)
        return torch.cat([head(vectors[block].float()).squeeze(-1) for block in blocks])


def smaller_sides(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(N,) the smaller of width and height, pixels."""
    return torch.tensor([float(min(size)) for size in sizes])
