"""The CLIP-guided Stable Diffusion of diffusers' community examples, restated to be measured.

Per step it runs the denoiser a second time on the prompt with a graph, mixes x0 with the sample,
decodes it with the full autoencoder, takes random cutouts, and moves epsilon by the gradient of
their mean spherical distance to the text (`examples/community/clip_guided_stable_diffusion.py` of
huggingface/diffusers, branch of epsilon schedulers; after Crowson's CLIP-guided diffusion). It is
here for comparison alone: `guide` does not use it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CUTOUTS = 4


def cutouts(images: Tensor, side: int, count: int) -> Tensor:
    """`count` random square crops of the batch, pooled to `side`: (count·B, 3, side, side)."""
    height, width = images.shape[2:]
    largest, smallest = min(height, width), min(height, width, side)
    crops: list[Tensor] = []
    for _ in range(count):
        size = int(torch.rand([]) * (largest - smallest) + smallest)
        left = int(torch.randint(0, width - size + 1, ()))
        top = int(torch.randint(0, height - size + 1, ()))
        crop = images[:, :, top : top + size, left : left + size]
        crops.append(nn.functional.adaptive_avg_pool2d(crop, side))
    return torch.cat(crops)


def spherical_distance(a: Tensor, b: Tensor) -> Tensor:
    """2·arcsin²(|a - b| / 2) of unit vectors, (..., D) -> (...)."""
    return (a - b).norm(dim=-1).div(2).arcsin().pow(2).mul(2)


@dataclass(frozen=True)
class CutoutDistance:
    """How far images are from a text, by random cutouts of each.

    Attributes:
        embed: normalised pixels -> unit vectors.
        normalize: (B, 3, h, w) in [0, 1] -> what CLIP takes.
        side: side of the images CLIP takes.
        target: unit text embedding, (D,).
    """

    embed: Callable[[Tensor], Tensor]
    normalize: Callable[[Tensor], Tensor]
    side: int
    target: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B,)."""
        pixels = self.normalize(cutouts(images, self.side, CUTOUTS))
        distance = spherical_distance(self.embed(pixels), self.target)  # (CUTOUTS·B,)
        return distance.view(CUTOUTS, len(images)).mean(0)


class CommunityGuidance:
    """Edits the model output as the community pipeline does.

    Args:
        denoise: (latents, timestep) -> epsilon for the prompt, without classifier-free guidance.
        vae: the full autoencoder.
        distance: of images (B, 3, H, W) in [0, 1] from the text, (B,): the loss.
        alphas_cumprod: of the scheduler.
        scale: weight of the loss.

    Cost per step: one denoiser branch, one decode and CUTOUTS CLIP images, each with its backward
    pass.
    """

    def __init__(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        vae: Any,
        distance: Callable[[Tensor], Tensor],
        alphas_cumprod: Tensor,
        scale: float = 100.0,
    ) -> None:
        self._denoise, self._vae, self._distance = denoise, vae, distance
        self._alphas_cumprod, self._scale = alphas_cumprod, scale

    def __call__(self, x: Tensor, t: Tensor, out: Tensor) -> Tensor:
        """eps' = eps + √(1 - ᾱ) · ∂loss/∂x."""
        alpha_bar = float(self._alphas_cumprod[int(t)])
        spread = (1 - alpha_bar) ** 0.5
        with torch.enable_grad():
            latents = x.detach().requires_grad_()
            eps = self._denoise(latents.clone(), t)
            x0 = (latents - spread * eps) / alpha_bar**0.5
            mixed = x0 * spread + latents * (1 - spread)
            images = self._vae.decode(mixed / self._vae.config.scaling_factor).sample
            images = (images / 2 + 0.5).clamp(0, 1)
            loss = self._distance(images).sum() * self._scale
            (gradient,) = torch.autograd.grad(loss, latents)
        return out + spread * gradient
