"""Tiny random-weight pipelines of the real classes, for every test that samples."""

from __future__ import annotations

import inspect
import tempfile
from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tiny_clip import tiny_clip_dir, tiny_tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer

KINDS = {
    "text": StableDiffusionPipeline,
    "img2img": StableDiffusionImg2ImgPipeline,
    "inpaint": StableDiffusionInpaintPipeline,
}
SIZE = 16
"""Side of the images in pixels; the latents are (4, 8, 8)."""

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tiny_unet(*, in_channels: int = 4, out_channels: int = 4) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )


def tiny_taesd(*, upsampled: int = 1) -> AutoencoderTiny:
    """A decoder for the same latents; upsampled=0 decodes to a lower resolution (8 px)."""
    blocks = (1,) * (upsampled + 1)
    torch.manual_seed(3)
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * len(blocks),
        decoder_block_out_channels=(8,) * len(blocks),
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    ).eval()


@cache
def _shared_modules(in_channels: int, out_channels: int) -> dict[str, Any]:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {
        "unet": tiny_unet(in_channels=in_channels, out_channels=out_channels).eval(),
        "vae": tiny_vae().eval(),
        "text_encoder": CLIPTextModel(config).eval(),
        "tokenizer": tokenizer,
    }


def tiny_pipeline(
    kind: str = "text",
    scheduler: Any = None,
    *,
    in_channels: int = 4,
    out_channels: int = 4,
) -> Any:
    """A pipeline of KINDS; the modules are shared between calls and must not be changed."""
    pipe = KINDS[kind](
        **_shared_modules(in_channels, out_channels),
        scheduler=scheduler or tiny_scheduler(DDIMScheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def tiny_scorer() -> Scorer:
    """A random CLIP that sees 16 pixels."""
    with tempfile.TemporaryDirectory() as folder:
        return load_scorer(tiny_clip_dir(folder, image_size=16))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def half_noise_is_rounded() -> bool:
    """Whether a seed's noise in half precision is that of float32, rounded.

    torch 2.6 draws it from numbers that have been rounded before: another noise altogether, and a
    picture in half precision that has nothing in common with the one in float32.
    """
    full, half = (
        torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    return torch.equal(full.bfloat16(), half)


def draw(pipe: Any, *seeds: int, steps: int = 4, **extra: Any) -> Tensor:
    """The last latents of one image per seed, (B, 4, 8, 8)."""
    return pipe(
        ["a fox"] * len(seeds),
        num_inference_steps=steps,
        generator=generators(*seeds),
        output_type="latent",
        **extra,
    ).images


def call(pipe: Any, steps: int = 2, **arguments: Any) -> Any:
    """One image of seed 0, (1, 3, 16, 16) unless `output_type` says otherwise."""
    arguments.setdefault("output_type", "pt")
    return pipe("a fox", num_inference_steps=steps, generator=generators(0), **arguments).images


def tiny_scheduler(cls: type[Any], **config: Any) -> Any:
    """A scheduler with Stable Diffusion's betas and no clipping of latents."""
    extra = {"clip_sample": False, "skip_prk_steps": True, "steps_offset": 1}
    known = {k: v for k, v in (SD_BETAS | extra | config).items() if k in _init_names(cls)}
    return cls(**known)


def _init_names(cls: type[Any]) -> set[str]:
    return set(inspect.signature(cls.__init__).parameters)


class ProjectionReward(nn.Module):
    """A smooth reward of images without any CLIP: the sine of a fixed random projection."""

    def __init__(self, size: int = SIZE, seed: int = 5) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("weight", torch.randn(3, size, size, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.weight).flatten(1).mean(1).mul(8).sin()  # (B,)
