"""Resampling of weighted particles: systematic resampling, effective sample size. Pure maths."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def effective_sample_size(log_weights: Tensor) -> float:
    """1 / Σ W_i² of the normalised weights: N when they are equal, 1 when one has everything.

    Kong, Liu and Wong 1994. log_weights: (N,), not normalised, -inf allowed but not everywhere.
    """
    weights = torch.softmax(log_weights.double(), dim=0)  # (N,)
    return float(1.0 / weights.square().sum())


def systematic_resample(
    log_weights: Tensor, generator: Generator, count: int | None = None
) -> list[int]:
    """N ancestors, index i about N·W_i times: exactly floor(N·W_i) or ceil(N·W_i), in order.

    N is `count`, or as many as there are weights. One uniform number u places N evenly spaced
    points (u + j)/N on the cumulated weights, so E[copies of i] = N·W_i (Carpenter, Clifford and
    Fearnhead 1999). Takes one number from `generator`. Raises ValueError when no weight is finite,
    or one is NaN or +inf.
    """
    if log_weights.ndim != 1 or log_weights.numel() == 0:
        raise ValueError(f"got log-weights of shape {tuple(log_weights.shape)}, expected (N,)")
    weights = torch.softmax(log_weights.double().cpu(), dim=0)  # (N,)
    if not bool(torch.isfinite(weights).all()):
        raise ValueError(
            f"got log-weights {log_weights.tolist()}, expected a finite one and no NaN"
        )
    last = log_weights.numel() - 1
    count = last + 1 if count is None else count
    offset: Tensor = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
    points = (offset + torch.arange(count, dtype=torch.float64)) / count  # (N,)
    cumulated = weights.cumsum(0)
    cumulated = cumulated / cumulated[-1]  # rounded weights may sum to less than the last point
    picked: list[int] = torch.searchsorted(cumulated, points, right=True).tolist()
    return [min(index, last) for index in picked]
