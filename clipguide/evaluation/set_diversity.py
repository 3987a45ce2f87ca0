"""How different are the images of a set from one another?

Friedman & Dieng 2022, The Vendi Score (https://arxiv.org/abs/2210.02410), Eq. 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.evaluation.samples import Names, as_unit_samples


def mean_pairwise_distance(features: Tensor, names: Names | None = None) -> float:
    """1 - the mean cosine over all pairs of different images, in [0, 2]; 0: all the same.

    The diversity of several images of one prompt. **Cost**: N · D.

    Args:
        features: (N, D), N at least 2.
        names: what each is of, for messages.

    Raises:
        ValueError: see `clipguide.evaluation.samples.as_unit_samples`.

    Example:
        >>> mean_pairwise_distance(torch.eye(3))
        1.0
    """
    unit = as_unit_samples(features, names)
    count = len(unit)
    total = float(unit.sum(dim=0).square().sum()) - count  # of the cosines of ordered pairs
    return 1.0 - total / (count * (count - 1))


def vendi_score(features: Tensor, names: Names | None = None) -> float:
    """The effective number of different images, in [1, N]: exp of the entropy of K / N.

    K is the matrix of cosines; its eigenvalues over N are a distribution. N images all orthogonal
    count N, N copies count 1. **Cost**: the eigenvalues of a matrix of side min(N, D).

    Args:
        features: (N, D), N at least 2.
        names: what each is of, for messages.

    Raises:
        ValueError: see `clipguide.evaluation.samples.as_unit_samples`.

    Example:
        >>> round(vendi_score(torch.eye(3)), 6)
        3.0
    """
    unit = as_unit_samples(features, names)
    small = unit if len(unit) <= unit.shape[1] else unit.T  # K and its transpose's share values
    values = torch.linalg.eigvalsh(small @ small.T / len(unit)).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())
