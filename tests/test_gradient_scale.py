"""Small gradients through float16 components: what float32 finds is found there as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipguide.guidance.gradient import Evaluation, evaluate, pulled_back
from clipguide.rewards.base import FunctionReward

SLOPE = 2e-8  # below half of the smallest float16 number, 6e-8: rounded to zero on its way
WEIGHTS = torch.tensor([0.9, -0.7, 1.3]).view(1, 3, 1, 1)


def decoded(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """A decoder that computes in a type of its own, as an autoencoder loaded in float16 does."""
    return (latents.to(dtype) * WEIGHTS.to(dtype)).float()


def gradient(dtype: torch.dtype, copies: list[Tensor] | None = None) -> Tensor:
    x0 = torch.linspace(-1, 1, 48).view(1, 3, 4, 4)
    reward = FunctionReward(lambda images: SLOPE * images.flatten(1).sum(1))
    return evaluate(
        x0, lambda latents: decoded(latents, dtype), reward, [torch.Generator()], copies=copies
    ).gradient


@pytest.mark.parametrize("copies", [None, [torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)]])
def test_a_small_gradient_comes_through_a_float16_decoder(copies: list[Tensor] | None) -> None:
    exact = gradient(torch.float32, copies)
    assert torch.allclose(exact, SLOPE * WEIGHTS.expand(1, 3, 4, 4), rtol=1e-6, atol=0)
    assert torch.allclose(gradient(torch.float16, copies), exact, rtol=0.02, atol=0)


def test_a_small_gradient_comes_through_a_float16_denoiser() -> None:
    found = Evaluation(torch.zeros(1), torch.full((1, 3, 4, 4), SLOPE), torch.ones(1).bool(), {})
    pulled: list[Tensor] = []
    for dtype in (torch.float32, torch.float16):
        x = torch.linspace(-1, 1, 48).view(1, 3, 4, 4).requires_grad_()
        pulled.append(pulled_back(found, decoded(x, dtype), x).gradient)
    exact, half = pulled
    assert torch.allclose(exact, SLOPE * WEIGHTS.expand(1, 3, 4, 4), rtol=1e-6, atol=0)
    assert torch.allclose(half, exact, rtol=0.02, atol=0)
