"""The noise level as a network reads it, and a factor on cosines that depends on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FREQUENCIES = 32
"""Of the noise level's Fourier features: a sine and a cosine of each."""
HIGHEST = 64.0
"""The fastest of them, in radians over the whole range of noise."""
LARGEST_SCALE = 100.0
"""Of the learned factor on cosines, as in CLIP."""


def noise_angle(sigma_bar: Tensor) -> Tensor:
    """sigma_bar in [0, 1] -> the angle between signal and noise as a share of 90 degrees.

    x/√(α²+σ²) = cos(φ)·x0 + sin(φ)·ε with φ = asin(sigma_bar). Equal steps of φ change what can be
    read by like amounts, where equal steps of sigma_bar crowd the noisy end.

    Example:
        >>> round(noise_angle(torch.tensor(0.5)).item(), 4)
        0.3333
    """
    return torch.asin(sigma_bar) * (2 / math.pi)


def sigma_of_angle(angle: Tensor) -> Tensor:
    """The inverse of :func:`noise_angle`: a share of 90 degrees -> sigma_bar."""
    return torch.sin(angle * (math.pi / 2))


def noise_features(sigma_bar: Tensor) -> Tensor:
    """(B,) in [0, 1] -> (B, 2·FREQUENCIES) sines and cosines of the noise angle."""
    rates = torch.linspace(0, math.log(HIGHEST), FREQUENCIES, device=sigma_bar.device).exp()
    turns = noise_angle(sigma_bar)[:, None] * rates.to(sigma_bar)
    return torch.cat([turns.sin(), turns.cos()], dim=1)


class NoiseScale(nn.Module):
    """The factor on cosines by noise level: (B,) sigma_bar -> (B,), above 0, at most 100.

    Where more noise leaves less to be read, cosines of one size mean less, and the factor learned
    by cross-entropy is smaller. `start` is the factor at every level before training.
    """

    def __init__(self, start: float = 14.0, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * FREQUENCIES, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, math.log(start))

    def forward(self, sigma_bar: Tensor) -> Tensor:
        logarithm = self.out(functional.silu(self.hidden(noise_features(sigma_bar))))[:, 0]
        return logarithm.clamp(max=math.log(LARGEST_SCALE)).exp()
