"""Stage 4: x0 previews, what guidance will show the CLIPs in the middle of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from clipguide.data.scene_captions import write_caption
from clipguide.data.scenes import Scene, pick

from .data import draw_seed, with_negatives
from .diffusion import encode_prompts

TIMESTEPS = (200, 990)
SURE = 650
"""Below this timestep noisy latents settle what is where, whatever caption the network reads."""


@torch.no_grad()
def make_previews(
    scenes: Sequence[Scene], latents: Tensor, unet: UNet2DConditionModel, decoder: AutoencoderTiny,
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, scheduler: DDIMScheduler,
    scaling_factor: float, generator: torch.Generator, timestep: int | None = None,
) -> Tensor:  # fmt: skip
    """What the network believes the clean picture to be, seen from a random step of sampling.

    Args:
        scenes, latents: N scenes and their scaled latents (N, 4, 16, 16).
        timestep: the same for all, or None to draw one for each in :data:`TIMESTEPS`.

    Returns:
        (N, 3, 64, 64) uint8. A third of the sure ones are denoised under a swapped or empty
        caption, so that a CLIP that learns from them reads the picture and not the prompt's pull
        on it.
    """
    rng = Random(draw_seed(generator))
    parts: list[Tensor] = []
    for start in range(0, len(scenes), 64):
        x0 = latents[start : start + 64]
        times = torch.randint(*TIMESTEPS, (len(x0),), generator=generator)
        if timestep is not None:
            times = torch.full((len(x0),), timestep)
        captions = [
            _prompt(scene, int(time), rng, timestep is None)
            for scene, time in zip(scenes[start : start + 64], times, strict=True)
        ]
        noisy: Any = scheduler.add_noise(x0, torch.randn(x0.shape, generator=generator), times)  # pyright: ignore[reportArgumentType]
        output = unet(noisy, times, encode_prompts(text_encoder, tokenizer, captions)).sample
        parts.append(_decode(_clean(scheduler, noisy, output, times) / scaling_factor, decoder))
    return torch.cat(parts)


def _prompt(scene: Scene, time: int, rng: Random, mixed: bool) -> str:
    own, *wrong = with_negatives(scene, rng)
    if not mixed or time >= SURE or rng.random() < 2 / 3:
        return write_caption(own, rng)
    return pick(rng, ["", *(write_caption(spec, rng) for spec in wrong)])


def _clean(scheduler: DDIMScheduler, noisy: Tensor, output: Tensor, times: Tensor) -> Tensor:
    """x0 from what the network predicts."""
    alpha = scheduler.alphas_cumprod[times].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    if scheduler.config["prediction_type"] == "v_prediction":
        return alpha * noisy - sigma * output
    return (noisy - sigma * output) / alpha


def _decode(latents: Tensor, decoder: AutoencoderTiny) -> Tensor:
    images = decoder.decode(latents).sample
    return (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
