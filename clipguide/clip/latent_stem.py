"""The convolutions between a noisy latent and the features that a teacher's image tower takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.noise_level import FREQUENCIES

GROUPS = 8
"""Of the group norms."""


class NoiseModulation(nn.Module):
    """A scale and a shift of each channel by the noise level, nothing at the start (FiLM).

    Source: Perez et al. 2018 (section 2, https://arxiv.org/abs/1709.07871), begun at zero as the
    modulation of Peebles and Xie 2023 (section 3.2, https://arxiv.org/abs/2212.09748).
    """

    def __init__(self, level_width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(level_width, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, state: Tensor, level: Tensor) -> Tensor:
        """State (B, C, h, w) or (B, T, C), level (B, level_width) -> as the state."""
        scale, shift = self.linear(level).chunk(2, dim=1)  # (B, C)
        shape = (len(scale), -1, 1, 1) if state.ndim == 4 else (len(scale), 1, -1)
        return torch.addcmul(shift.view(shape), state, 1 + scale.view(shape))


class StemBlock(nn.Module):
    """Two 3x3 convolutions beside a residual; group norms scaled and shifted by the noise level."""

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width, affine=False) for _ in range(2))
        self.scales = nn.ModuleList(NoiseModulation(level_width, width) for _ in range(2))
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, state: Tensor, level: Tensor) -> Tensor:
        hidden = state
        for norm, scale, convolution in zip(
            self.norms, self.scales, self.convolutions, strict=True
        ):
            hidden = convolution(functional.silu(scale(norm(hidden), level)))
        return state + hidden


class LatentStem(nn.Module):
    """Noisy latents and the noise level -> features on a grid of `patch` latent cells a side.

    Args:
        channels: of the latents.
        features: channels of what comes out.
        patch: latent cells on each side of a place of the grid.
        width, blocks: of the residual blocks.
        level_width: of what is made of the noise level.
    """

    def __init__(
        self, channels: int, features: int, patch: int, shape: tuple[int, int], level_width: int
    ) -> None:
        super().__init__()
        width, blocks = shape
        self.patch = patch
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.ModuleList(StemBlock(width, level_width) for _ in range(blocks))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.last = nn.Conv2d(width, features, patch, stride=patch)

    def forward(self, latents: Tensor, level: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents (B, channels, h, w), level (B, level_width) -> (B, features, *size)."""
        state = self.first(latents)
        for block in self.blocks:
            state = block(state, level)
        state = functional.silu(self.norm(state))
        return self.last(resized(state, (size[0] * self.patch, size[1] * self.patch)))


def resized(state: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) at another height and width, bilinear, averaged where it shrinks."""
    if tuple(state.shape[-2:]) == size:
        return state
    shrinks = size[0] < state.shape[-2] or size[1] < state.shape[-1]
    return functional.interpolate(
        state, size, mode="bilinear", align_corners=False, antialias=shrinks
    )


def level_perceptron(width: int) -> nn.Sequential:
    """Features of the noise level (B, 2·FREQUENCIES) -> (B, width)."""
    return nn.Sequential(
        nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
    )
