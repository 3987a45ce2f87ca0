"""A clamp that passes, outside its limits, the gradients whose ascent leads back inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _InwardClamp(torch.autograd.Function):
    """Clamp whose x also gets the gradients that lead inside; the limits get those of a clamp."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward(x, low, high)
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, low, high = ctx.saved_tensors
        (gradient,) = grad_outputs
        outward = ((x > high) & (gradient > 0)) | ((x < low) & (gradient < 0))
        at_low, at_high = gradient * (x < low), gradient * (x > high)
        limits = at_low.sum_to_size(low.shape), at_high.sum_to_size(high.shape)
        return gradient.masked_fill(outward, 0), *limits


def inward_clamp(x: Tensor, low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
    """x clamped to [low, high], which may be tensors that broadcast and have a gradient.

    A plain clamp gives every saturated value the gradient 0. For a reward that is climbed, a value
    above `high` keeps a negative gradient and one below `low` a positive one (after Crowson 2021,
    `ClampWithGrad` of VQGAN-CLIP, Crowson et al. 2022, https://arxiv.org/abs/2204.08583).

    Example:
        >>> x = torch.tensor([1.5, 1.5], requires_grad=True)
        >>> (inward_clamp(x) * torch.tensor([1.0, -1.0])).sum().backward()
        >>> x.grad.tolist()
        [0.0, -1.0]
    """
    limits = [torch.as_tensor(limit, dtype=x.dtype, device=x.device) for limit in (low, high)]
    clamped: Tensor = _InwardClamp.apply(x, *limits)
    return clamped
