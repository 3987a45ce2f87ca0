"""Stage 3: the latent diffusion model, conditioned on the guiding CLIP's frozen text tower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from clipguide.data.scene_captions import spec_of, write_caption
from clipguide.data.scenes import sample_scene
from clipguide.training.loop import LoopSettings, train

from . import models
from .data import TRAIN_SEED, draw_indices, draw_seed

SETTINGS = LoopSettings(
    steps=7600, learning_rate=8e-4, warmup=200, weight_decay=0.01, ema_decay=0.998, seed=31
)
Scheduler = DDIMScheduler | DPMSolverMultistepScheduler
BATCH = 32
DROP_CAPTION = 0.1
"""Share of captions replaced by the empty prompt, for classifier-free guidance."""


@torch.no_grad()
def encode_prompts(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]
) -> Tensor:
    """(P, 28, D) last hidden states, padded as StableDiffusionPipeline pads them."""
    tokens: Any = tokenizer(
        captions, padding="max_length", max_length=models.CONTEXT_LENGTH, truncation=True,
        return_tensors="pt",
    )  # fmt: skip
    return text_encoder(tokens.input_ids)[0]


def draw_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Half uniform, half logit-normal around 710, where the layout is decided."""
    even = torch.rand(batch, generator=generator)
    middle = torch.sigmoid(0.9 + torch.randn(batch, generator=generator))
    chosen = torch.where(torch.arange(batch) % 2 == 0, even, middle)
    return (chosen * 1000).long().clamp(0, 999)


def noised(
    scheduler: Scheduler, x0: Tensor, noise: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor]:
    """What the network is shown, and what it is to predict of it.

    Noise, or velocity (Salimans & Ho 2022, Appendix D, https://arxiv.org/abs/2202.00512); or the
    velocity of the straight line from data to noise (Liu et al. 2023, equation 1,
    https://arxiv.org/abs/2209.03003), where a timestep of N is a share t/N of noise.
    """
    if scheduler.config["prediction_type"] == "flow_prediction":
        share = (timesteps / scheduler.config["num_train_timesteps"]).view(-1, 1, 1, 1)
        return torch.lerp(x0, noise, share.to(x0)), noise - x0
    shown: Any = scheduler.add_noise(x0, noise, timesteps)  # pyright: ignore[reportArgumentType]
    if isinstance(scheduler, DDIMScheduler) and scheduler.config["prediction_type"] != "epsilon":
        return shown, scheduler.get_velocity(x0, noise, timesteps)  # pyright: ignore[reportArgumentType]
    return shown, noise


def train_unet(
    latents: Tensor, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer,
    scheduler: Scheduler, folder: Path, log: Callable[[str], None],
    settings: LoopSettings = SETTINGS, start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:  # fmt: skip
    """A UNet trained on scaled ``latents`` (N, 4, 16, 16) of training scenes: its EMA weights.

    ``start`` is trained on, in place, instead of a new one.
    """
    torch.manual_seed(settings.seed)
    unet = start or models.build_unet(text_encoder.config.hidden_size)
    unet = unet.to(memory_format=torch.channels_last)  # 1.14 times as fast on two cores
    scenes = [sample_scene(TRAIN_SEED + i) for i in range(len(latents))]

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(len(latents), BATCH, generator)
        rng = Random(draw_seed(generator))
        captions = [write_caption(spec_of(scenes[i], rng), rng) for i in chosen.tolist()]
        kept = [text if rng.random() >= DROP_CAPTION else "" for text in captions]
        prompts = encode_prompts(text_encoder, tokenizer, kept)
        x0 = latents[chosen]
        noise = torch.randn(x0.shape, generator=generator)
        timesteps = draw_timesteps(BATCH, generator)
        noisy, target = noised(scheduler, x0, noise, timesteps)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        output = unet(noisy, timesteps, prompts).sample
        return {"loss": functional.mse_loss(output, target)}

    average = train({"unet": unet}, step, settings, folder, log)
    unet.load_state_dict({name.removeprefix("unet."): value for name, value in average.items()})
    return unet.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
