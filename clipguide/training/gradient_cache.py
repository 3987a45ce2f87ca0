"""Encode a batch larger than memory: the gradient of one pass, the memory of a part.

The loss needs all features at once, the encoder does not: parts are encoded without keeping their
activations, the loss gives the gradient of every feature, and each part is encoded a second time to
carry it on.

Source: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup
(section 3, https://arxiv.org/abs/2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def encode_in_parts(encode: Callable[..., Tensor], inputs: Sequence[Tensor], part: int) -> Tensor:
    """`encode(*inputs)`, at most `part` rows of the inputs at a time.

    The features and every gradient are those of the whole batch at once, where rows do not look at
    each other (no batch normalisation in training mode); dropout draws the same numbers in both
    passes.

    Args:
        encode: rows of the inputs -> features (rows, D).
        inputs: tensors of one length B.
        part: rows whose activations are held at once.

    Returns:
        (B, D). **Cost**: `encode` forward twice and backward once for each row.

    Raises:
        ValueError: `part` below 1, no inputs, or inputs of different lengths.
    """
    if part < 1 or not inputs:
        raise ValueError(f"got part {part} and {len(inputs)} inputs, expected 1 or more of each")
    if len({len(rows) for rows in inputs}) != 1:
        raise ValueError(f"got inputs of {[len(rows) for rows in inputs]} rows, expected as many")
    parts = zip(*(rows.split(part) for rows in inputs), strict=True)
    features: list[Tensor] = [checkpoint(encode, *rows, use_reentrant=False) for rows in parts]
    return torch.cat(features)
