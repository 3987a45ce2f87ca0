"""A vision transformer that reads a noisy latent and its noise level, trained from scratch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.latent_clip import LatentTower
from clipguide.clip.noise_level import FREQUENCIES, noise_features


@dataclass(frozen=True)
class LatentVitShape:
    """The shape of a :class:`LatentVit`.

    Attributes:
        channels: of the latents.
        grid: tokens on each side of the latents it is trained on; others are interpolated.
        patch: latent cells on each side of a token.
        width, layers, heads: of the transformer.
        embed_dim: D, the teacher's.
    """

    channels: int = 4
    grid: int = 8
    patch: int = 2
    width: int = 128
    layers: int = 4
    heads: int = 4
    embed_dim: int = 128

    def __post_init__(self) -> None:
        if min(self.channels, self.grid, self.patch, self.layers, self.embed_dim) < 1:
            raise ValueError(f"got {self}, expected numbers of 1 or more")
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"got width {self.width} of {self.heads} heads, expected a multiple")


class Block(nn.Module):
    """Attention and a perceptron, each scaled, shifted and gated by the noise level (adaLN-zero).

    Source: Peebles and Xie 2023 (section 3.2, https://arxiv.org/abs/2212.09748); the modulation is
    computed once for all blocks and each adds its own offset, as in PixArt-α, Chen et al. 2024
    (section 2.3, https://arxiv.org/abs/2310.00426): a third of the parameters of a small tower.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.offset = nn.Parameter(torch.zeros(6, width))

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """(B, N, width), (B, 6, width) -> (B, N, width)."""
        shift, scale, gate, shift_up, scale_up, gate_up = (
            (modulation + self.offset).unsqueeze(2).unbind(1)
        )  # each (B, 1, width)
        tokens = tokens + gate * self._attend(modulated(tokens, shift, scale))
        hidden = functional.gelu(self.up(modulated(tokens, shift_up, scale_up)))
        return tokens + gate_up * self.down(hidden)

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        heads = self.qkv(tokens).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if heads.device.type == "cpu" and heads.dtype == torch.bfloat16:
            heads = heads.float()  # torch's attention in bfloat16 takes three times as long there
        device = heads.device.type
        plain = nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
        with plain:
            found = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        return self.out(found.transpose(1, 2).reshape(batch, count, width))


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without parameters, then scaled and shifted."""
    return torch.addcmul(shift, functional.layer_norm(tokens, tokens.shape[-1:]), 1 + scale)


class LatentVit(LatentTower):
    """(B, C, h, w) noisy latents in the normal form and (B,) sigma_bar -> (B, D), no unit length.

    Latents of any height and width that `patch` divides are read: positions are interpolated.
    """

    kind = "vit"

    def __init__(self, shape: LatentVitShape) -> None:
        super().__init__()
        self.shape = shape
        self.channels, self.multiple = shape.channels, shape.patch
        width = shape.width
        self.patches = nn.Conv2d(shape.channels, width, shape.patch, stride=shape.patch)
        self.positions = nn.Parameter(0.2 * torch.randn(1, width, shape.grid, shape.grid))
        self.summary = nn.Parameter(0.2 * torch.randn(1, 1, width))
        self.noise = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.layers))
        self.last_modulation = nn.Linear(width, 2 * width)
        self.projection = nn.Linear(width, shape.embed_dim, bias=False)
        # zero: at the start each block returns its input
        for layer in (self.modulation, self.last_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def settings(self) -> dict[str, Any]:
        return asdict(self.shape)

    def forward(self, latents: Tensor, sigma_bar: Tensor) -> Tensor:
        level = self.noise(noise_features(sigma_bar))  # (B, width)
        modulation = self.modulation(level).unflatten(1, (6, -1))
        seen = self.patches(latents)  # (B, width, h/patch, w/patch)
        seen = (seen + resized_positions(self.positions, seen.shape[-2:])).flatten(2).mT
        tokens = torch.cat([self.summary.expand(len(seen), -1, -1), seen], dim=1)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        shift, scale = self.last_modulation(level).chunk(2, dim=1)
        return self.projection(modulated(tokens[:, 0], shift, scale))


def resized_positions(positions: Tensor, size: tuple[int, ...]) -> Tensor:
    """(1, width, grid, grid) at another height and width, bicubic."""
    if positions.shape[-2:] == size:
        return positions
    return functional.interpolate(positions, size, mode="bicubic", align_corners=False)
