"""The reward of a spread-out x0: an average over noisy copies of it, by Monte Carlo.

The reward of the mean of x0 is not the mean reward over its posterior. Loss-guided diffusion (Song
et al. 2023, LGD-MC, https://proceedings.mlr.press/v202/song23k.html) takes the posterior for
N(x0, r_t²) with r_t = sigma/sqrt(1 + sigma²) at alpha = 1, which is sqrt(C_t), and averages
exp(reward) over n samples; TFG (Ye et al. 2024, Algorithm 1, https://arxiv.org/abs/2409.15761) does
the same with a radius of its own. The samples share one denoiser call and one pass back through it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

AVERAGES = ("mean", "exp")


def spread(
    x0: Tensor, count: int, radius: float, generators: Sequence[torch.Generator]
) -> list[Tensor]:
    """`count` displacements radius·noise of x0, each (B, ...); image i from generator i alone."""
    return [radius * noise_like(x0, generators) for _ in range(count)]


def noise_like(x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Standard normal (B, ...) in the dtype and on the device of x; row i from generator i."""
    rows = [
        torch.randn(x.shape[1:], generator=g, dtype=x.dtype, device=g.device) for g in generators
    ]
    return torch.stack([row.to(x.device) for row in rows])


def averaged(rewards: Tensor, average: str) -> tuple[Tensor, Tensor]:
    """The average over copies and what each copy's gradient weighs in its gradient.

    Args:
        rewards: (n, B).
        average: "mean", or "exp" for log(mean(exp(reward))).

    Returns:
        average (B,) and weights (n, B), which sum to 1.
    """
    if average == "mean":
        return rewards.mean(dim=0), torch.full_like(rewards, 1 / len(rewards))
    return rewards.logsumexp(dim=0) - math.log(len(rewards)), rewards.softmax(dim=0)
