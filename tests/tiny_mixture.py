"""A pipeline whose network is perfect: it predicts the exact mean of a Gaussian mixture."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor, nn

from clipguide.evaluation.closed_form import PROBLEMS
from clipguide.guidance.parameterization import NoiseLevel, parameterization

PRIOR = PROBLEMS["mixture, linear"].prior


class MixtureNetwork(nn.Module):
    """Predicts what a perfect network would, from an input and a trained timestep alone."""

    def __init__(self, prediction: str, alphas_cumprod: Tensor | None) -> None:
        super().__init__()
        self.prediction, self.alphas_cumprod = prediction, alphas_cumprod
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        if self.alphas_cumprod is None:
            sigma = float(timestep) / 1000
            level = NoiseLevel(1 - sigma, sigma)
        else:
            bar = float(self.alphas_cumprod[int(timestep)])
            level = NoiseLevel(math.sqrt(bar), math.sqrt(1 - bar))
        form = parameterization(self.prediction, level)
        return (PRIOR.x0(x, level) - form.a * x) / form.b


class LoopPipeline(DiffusionPipeline):
    """A plain denoising loop, with the scheduler's own scaling of the network's input."""

    def __init__(self, unet: MixtureNetwork, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def prepare_latents(self) -> Tensor:
        noise = torch.linspace(-2, 2, 16, dtype=torch.float64).view(-1, 1, 1, 1)
        return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)

    @torch.no_grad()
    def __call__(self, steps: int) -> Tensor:
        self.scheduler.set_timesteps(steps)
        x = self.prepare_latents()
        for t in self.scheduler.timesteps:
            scale = getattr(self.scheduler, "scale_model_input", lambda x, t: x)
            x = self.scheduler.step(self.unet(scale(x, t), t), t, x).prev_sample
        return x


def exact_pipeline(name: str, prediction: str) -> Any:
    cls: Any = getattr(diffusers, name)
    if prediction == "flow_prediction":
        solver = {"prediction_type": prediction, "use_flow_sigmas": True}
        scheduler = cls(**({} if name.startswith("Flow") else solver))
        return LoopPipeline(MixtureNetwork(prediction, None), scheduler)
    clips = {"clip_sample": False} if name.startswith("DD") else {}
    scheduler = cls(prediction_type=prediction, **clips)
    return LoopPipeline(MixtureNetwork(prediction, scheduler.alphas_cumprod), scheduler)
