"""How far is a set of generated images from a set of real ones? KID, Frechet distance, CMMD.

On the features of any encoder, such as `Scorer.encode_image`: the number says nothing without the
encoder's name and both counts. FID and KID as published are on Inception-v3's pool features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.evaluation.samples import as_sides, as_unit_samples

_ROWS = 2048  # of a kernel matrix at once
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0

Kernel = Callable[[Tensor, Tensor], Tensor]  # (N, D), (M, D) -> (N, M)


@dataclass(frozen=True)
class KernelDistance:
    """KID: mean and standard deviation over `subsets` draws of `subset_size` of each side."""

    mean: float
    deviation: float
    subsets: int
    subset_size: int


def kernel_distance(
    generated: Tensor, real: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID: unbiased squared MMD under the kernel (x·y / D + 1)³. Lower is nearer; may be negative.

    Binkowski et al. 2018, Demystifying MMD GANs (https://arxiv.org/abs/1801.01401), section 4.
    Subsets are drawn without replacement; where one holds all of both sides there is one, without
    a deviation. **Cost**: subsets · 3 · subset_size² · D.

    Args:
        generated, real: (N, D) and (M, D), at least 2 each.
        subsets: how many are drawn.
        subset_size: of each side; no more than the smaller side has.
        seed: of the draws.

    Raises:
        ValueError: see `clipguide.evaluation.samples.as_sides`, or a number below its least.

    Example:
        >>> kernel_distance(torch.eye(4), torch.eye(4), subset_size=4).subsets
        1
    """
    x, y = as_sides(generated, real)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"got {subsets} subsets of {subset_size}, expected 1 or more of 2 or more")
    size = min(subset_size, len(x), len(y))
    if size == len(x) == len(y):
        return KernelDistance(_unbiased(x, y, _polynomial), 0.0, 1, size)
    random = torch.Generator().manual_seed(seed)
    values = [
        _unbiased(_some(x, size, random), _some(y, size, random), _polynomial)
        for _ in range(subsets)
    ]
    found = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(float(found.mean()), float(found.std(correction=0)), subsets, size)


def cmmd(generated: Tensor, real: Tensor) -> float:
    """CMMD: 1000 · squared MMD of unit vectors under a Gaussian kernel of sigma 10; at least 0.

    Jayasumana et al. 2024, Rethinking FID (https://arxiv.org/abs/2401.09603), section 5, with the
    biased estimator of its released code. Published numbers are of CLIP ViT-L/14 at 336 pixels.
    **Cost**: (N + M)² · D, in blocks.

    Raises:
        ValueError: see `clipguide.evaluation.samples.as_sides`, or a feature of length 0.

    Example:
        >>> cmmd(torch.eye(4), torch.eye(4))
        0.0
    """
    as_sides(generated, real)
    x, y = as_unit_samples(generated), as_unit_samples(real)
    means = [_sum(a, b, _gaussian) / (len(a) * len(b)) for a, b in ((x, x), (y, y), (x, y))]
    return CMMD_SCALE * max(means[0] + means[1] - 2 * means[2], 0.0)


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    """|μ1 - μ2|² + tr(Σ1 + Σ2 - 2 (Σ1 Σ2)^½), the squared Frechet distance of two Gaussians.

    Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule
    (https://arxiv.org/abs/1706.08500), Eq. 6: FID on Inception's features. Biased upwards by
    about D / N: compare sets of one size only. With centred X/√(N-1) = Q R, Σ is RᵀR and
    tr (Σ1 Σ2)^½ the sum of the singular values of R1 R2ᵀ: no root of a matrix that is nearly
    singular. **Cost**: (N + M) · D² and the singular values of a matrix of side D.

    Raises:
        ValueError: see `clipguide.evaluation.samples.as_sides`.

    Example:
        >>> frechet_distance(torch.eye(4) + 1, torch.eye(4))
        4.0...
    """
    x, y = as_sides(generated, real)
    roots = [_root(side) for side in (x, y)]
    spread = sum(float(root.square().sum()) for root in roots)
    shared = float(torch.linalg.svdvals(roots[0] @ roots[1].T).sum())
    shift = float((x.mean(dim=0) - y.mean(dim=0)).square().sum())
    return max(shift + spread - 2 * shared, 0.0)


def _root(samples: Tensor) -> Tensor:
    """R (min(N, D), D) with RᵀR the covariance."""
    centred = (samples - samples.mean(dim=0)) / (len(samples) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def _some(samples: Tensor, size: int, random: torch.Generator) -> Tensor:
    return samples[torch.randperm(len(samples), generator=random)[:size]]


def _polynomial(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _gaussian(x: Tensor, y: Tensor) -> Tensor:
    squared = (2 - 2 * x @ y.T).clamp(min=0)  # of unit vectors
    return (squared / (-2 * CMMD_SIGMA**2)).exp()


def _unbiased(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """Gretton et al. 2012 (JMLR 13), Eq. 3: no sample beside itself."""
    n, m = len(x), len(y)
    own_x = _sum(x, x, kernel) - sum(float(kernel(row, row)) for row in x.split(1))
    own_y = _sum(y, y, kernel) - sum(float(kernel(row, row)) for row in y.split(1))
    return own_x / (n * (n - 1)) + own_y / (m * (m - 1)) - 2 * _sum(x, y, kernel) / (n * m)


def _sum(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    return sum(float(kernel(rows, y).sum()) for rows in x.split(_ROWS))
