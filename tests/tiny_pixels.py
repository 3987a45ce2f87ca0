"""A tiny pixel pipeline in float64 whose every part can be written out by hand."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

SHAPE = (2, 3, 4, 4)


class TinyDenoiser(nn.Module):
    """A random network: smooth, not linear, and different at every timestep."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 3, 3, padding=1)
        self.double()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x * 0.7 + self.outer(torch.tanh(self.inner(x) + float(timestep) / 1000))


class PixelPipeline(DiffusionPipeline):
    def __init__(self, unet: TinyDenoiser, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def prepare_latents(self, generator: Any) -> Tensor:
        return start()

    @torch.no_grad()
    def __call__(self, steps: int, generator: torch.Generator, **extra: Any) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = self.prepare_latents(generator)
        for t in self.scheduler.timesteps:
            out = self.unet(x, t)
            x = self.scheduler.step(out, t, x, generator=generator, **extra).prev_sample
        return x


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def pixel_pipeline(kind: str) -> PixelPipeline:
    """With a "ddim", "ddpm" or "flow" scheduler; the first two in float64 throughout."""
    scheduler: Any
    if kind == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler()
    else:
        cls = DDIMScheduler if kind == "ddim" else DDPMScheduler
        scheduler = cls(clip_sample=False)
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return PixelPipeline(TinyDenoiser(), scheduler)


def likelihood(images: Tensor) -> Tensor:
    """A smooth reward, neither linear nor quadratic: (B, 3, 4, 4) -> (B,)."""
    target = torch.linspace(-1, 1, 48, dtype=torch.float64).view(1, 3, 4, 4)
    off = images - target.to(images)
    return -(off**2).flatten(1).sum(1) / 8 + images.flatten(1).sum(1).sin() / 4
