"""Searches of a tiny pipeline, and the plain calls and steps that they are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from tiny_pipelines import ProjectionReward, tiny_pipeline, tiny_scheduler

from clipguide.guidance.config import GuidanceConfig
from clipguide.search import Candidate, search
from clipguide.search.candidate import best_first
from clipguide.search.path import Path
from clipguide.search.rollout import Rollout
from clipguide.seeds import image_seeds, make_generators

PROMPT, STEPS = "a b", 4
REWARD = ProjectionReward()
GUIDED = [None, GuidanceConfig(0.2), GuidanceConfig(0.2, mode="xt", window=(0.0, 0.9))]


def pipeline(cls: type[Any] = DDPMScheduler, kind: str = "text", **config: Any) -> Any:
    return tiny_pipeline(kind, tiny_scheduler(cls, **config))


def run(pipe: Any, method: Any = "best_of", **arguments: Any) -> list[Candidate]:
    return search(pipe, PROMPT, REWARD, method, **{"num_inference_steps": STEPS, **arguments})


def plain(pipe: Any, seed: int, **arguments: Any) -> torch.Tensor:
    """One image of the stock pipeline, (1, 3, H, W)."""
    generator = make_generators([seed])[0]
    settings = {"num_inference_steps": STEPS, "output_type": "pt", **arguments}
    return pipe(PROMPT, generator=generator, **settings).images


def make_latents(pipe: Any, generators: list[torch.Generator]) -> torch.Tensor:
    noise = [torch.randn(1, 4, 8, 8, generator=g) for g in generators]
    return torch.cat(noise) * pipe.scheduler.init_noise_sigma


def denoised(pipe: Any, latents: torch.Tensor, t: Any) -> torch.Tensor:
    """UNet with classifier-free guidance 7.5, as StableDiffusionPipeline; (B, 4, 8, 8)."""
    text, empty = pipe.encode_prompt(PROMPT, "cpu", len(latents), True)
    scaled = pipe.scheduler.scale_model_input(torch.cat([latents] * 2), t)
    low, high = pipe.unet(scaled, t, torch.cat([empty, text])).sample.chunk(2)
    return low + 7.5 * (high - low)


def decoded(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return (image / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Stopped:
    """Every sample is stopped on its way and continued, and all are returned.

    As `Prune` does with those that it keeps; but it leaves out a look that drops none.
    """

    at: float = 0.5

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        calls = max(1, round(self.at * rollout.calls()))
        paths, _ = rollout.advance([Path(s) for s in image_seeds(seed, budget)], calls)
        assert all(len(path.steps) == calls for path in paths)
        return best_first(rollout.candidates([p.seed for p in paths], rollout.finish(paths)))
