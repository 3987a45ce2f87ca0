"""Are generated images among the real ones, and do they cover them? By balls of nearest neighbours.

Kynkäänniemi et al. 2019, Improved Precision and Recall (https://arxiv.org/abs/1904.06991),
section 2; Naeem et al. 2020, Reliable Fidelity and Diversity Metrics
(https://arxiv.org/abs/2002.09797), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.evaluation.samples import as_sides

_ROWS = 2048


@dataclass(frozen=True)
class Coverage:
    """Four shares; a ball of a sample reaches to its k-th nearest other sample of its own side.

    Attributes:
        precision: share of the generated inside some real ball, in [0, 1].
        recall: share of the real inside some generated ball, in [0, 1].
        density: how many real balls a generated sample is in, over k: 1 where both are alike.
        coverage: share of the real balls that hold a generated sample, in [0, 1].
        neighbours: k.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    neighbours: int


def coverage(generated: Tensor, real: Tensor, *, neighbours: int = 5) -> Coverage:
    """Precision, recall, density and coverage of a set.

    A sample on the border of a ball is outside, as in the code of Naeem et al.; the paper of 2019
    has k = 3, that of 2020 k = 5. **Cost**: (N² + M² + N · M) · D, in blocks.

    Args:
        generated, real: (N, D) and (M, D), more than k each.
        neighbours: k.

    Raises:
        ValueError: see `clipguide.evaluation.samples.as_sides`, or k is less than 1.

    Example:
        >>> coverage(torch.eye(8), torch.eye(8) + 0.01, neighbours=3).recall
        1.0
    """
    if neighbours < 1:
        raise ValueError(f"got {neighbours} neighbours, expected 1 or more")
    x, y = as_sides(generated, real, least=neighbours + 1)
    own_x, own_y = _radii(x, neighbours), _radii(y, neighbours)
    inside_y = torch.zeros(len(x), dtype=torch.int64)  # real balls that hold each generated sample
    inside_x = torch.zeros(len(y), dtype=torch.bool)
    nearest = torch.full((len(y),), torch.inf, dtype=torch.float64)
    for rows in slices(len(x), _ROWS):
        distances = _distances(x[rows], y)  # (n, M)
        inside_y[rows] = (distances < own_y).sum(dim=1)
        inside_x |= (distances < own_x[rows, None]).any(dim=0)
        nearest = torch.minimum(nearest, distances.amin(dim=0))
    return Coverage(
        precision=float((inside_y > 0).double().mean()),
        recall=float(inside_x.double().mean()),
        density=float(inside_y.double().mean()) / neighbours,
        coverage=float((nearest < own_y).double().mean()),
        neighbours=neighbours,
    )


def _radii(samples: Tensor, neighbours: int) -> Tensor:
    """(N,) distance of each sample to its k-th nearest other."""
    parts: list[Tensor] = []
    for rows in slices(len(samples), _ROWS):
        distances = _distances(samples[rows], samples)
        places = torch.arange(len(distances))
        distances[places, places + rows.start] = torch.inf  # itself
        parts.append(distances.kthvalue(neighbours, dim=1).values)
    return torch.cat(parts)


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # not by |x|² + |y|² - 2 x·y, which makes copies of one sample seem apart
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
