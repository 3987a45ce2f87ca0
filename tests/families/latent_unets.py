"""Stable Diffusion and its relatives: a UNet on the latents of an AutoencoderKL."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    DDPMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PriorTransformer,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    StableUnCLIPPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from families.parts import (
    PROMPT,
    WIDTH,
    Family,
    clip_text,
    clip_text_projected,
    clip_tokenizer,
    ddim,
    prompted,
    ready,
    seeded,
    vae,
)
from PIL import Image
from tiny_pipelines import tiny_scheduler

SIZE = 16
PICTURE = Image.radial_gradient("L").resize((SIZE, SIZE)).convert("RGB")
MASK = Image.linear_gradient("L").resize((SIZE, SIZE))
DOWN, UP = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


def unet(**config: Any) -> UNet2DConditionModel:
    small: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "cross_attention_dim": WIDTH,
        "down_block_types": DOWN,
        "up_block_types": UP,
    }
    return seeded(UNet2DConditionModel, **(small | config))


def _text() -> dict[str, Any]:
    return {"text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "vae": vae()}


def stable_diffusion(cls: Any, scheduler: Any, **more: Any) -> Any:
    pipe = cls(
        **{"unet": unet()} | _text() | more,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return ready(pipe)


def controlnet() -> ControlNetModel:
    """Its output layers, zero in a new one, are random so that it is heard."""
    net = seeded(
        ControlNetModel,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        down_block_types=DOWN,
        conditioning_embedding_out_channels=(4, 8),
    )
    generator = torch.Generator().manual_seed(1)
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        layer.weight.data.normal_(std=0.2, generator=generator)
    return net


def sdxl(cls: Any, *, refiner: bool = False, **more: Any) -> Any:
    """Two text encoders; the refiner has one and an aesthetic score."""
    ids, width = (5, WIDTH) if refiner else (6, 2 * WIDTH)
    denoiser = unet(
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * ids + WIDTH,
        cross_attention_dim=width,
    )
    pipe = cls(
        unet=denoiser,
        scheduler=tiny_scheduler(EulerDiscreteScheduler),
        text_encoder=None if refiner else clip_text(),
        tokenizer=None if refiner else clip_tokenizer(),
        text_encoder_2=clip_text_projected(),
        tokenizer_2=clip_tokenizer(),
        **{"vae": vae(scaling_factor=0.13025)} | more,
    )
    return ready(pipe)


def stable_unclip() -> Any:
    """A prior denoises the image embedding first, with a scheduler of its own."""
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    prior = seeded(
        PriorTransformer, num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH,
        num_layers=1,
    )  # fmt: skip
    prior_scheduler = DDPMScheduler(
        **cosine, variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    pipe = StableUnCLIPPipeline(
        prior_tokenizer=clip_tokenizer(),
        prior_text_encoder=clip_text_projected(),
        prior=prior,
        prior_scheduler=prior_scheduler,
        image_normalizer=seeded(StableUnCLIPImageNormalizer, embedding_dim=WIDTH),
        image_noising_scheduler=DDPMScheduler(**cosine),
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH),
        scheduler=ddim(prediction_type="v_prediction"),
        **_text(),
    )
    return ready(pipe)


def _from_picture(n: int) -> dict[str, Any]:
    return {"prompt": [PROMPT] * n, "image": [PICTURE] * n, "strength": 0.8}


def _inpainted(n: int) -> dict[str, Any]:
    """Everything is painted: the last x0 is then the picture, nothing is pasted back."""
    everything = Image.new("L", (SIZE, SIZE), 255)
    pictures = {"image": [PICTURE] * n, "mask_image": [everything] * n}
    return {"prompt": [PROMPT] * n, **pictures, "height": SIZE, "width": SIZE, "strength": 1.0}


def _controlled(n: int) -> dict[str, Any]:
    return {"prompt": [PROMPT] * n, "image": [PICTURE] * n}


def _family(
    cls: Any, build: Callable[[], Any], call: Any, variant: str = "", **more: Any
) -> Family:
    return Family(cls.__name__, cache(build), call, variant, **more)


def _sd(cls: Any, call: Any, variant: str = "", **parts: Callable[[], Any]) -> Family:
    def build() -> Any:
        made = {name: make() for name, make in parts.items()}
        return stable_diffusion(cls, made.pop("scheduler", None) or ddim(), **made)

    return _family(cls, build, call, variant)


def _sdxl(cls: Any, call: Any, variant: str = "", **parts: Any) -> Family:
    return _family(cls, partial(sdxl, cls, **parts), call, variant)


FAMILIES = [
    _sd(StableDiffusionPipeline, prompted(), "1.x"),
    _sd(
        StableDiffusionPipeline, prompted(), "2.x (v)",
        scheduler=lambda: ddim(prediction_type="v_prediction"),
    ),
    _sd(StableDiffusionImg2ImgPipeline, _from_picture),
    _sd(StableDiffusionInpaintPipeline, _inpainted, "4 channels"),
    _sd(
        StableDiffusionInpaintPipeline, _inpainted, "9 channels",
        unet=lambda: unet(in_channels=9),
    ),
    _sd(StableDiffusionControlNetPipeline, _controlled, controlnet=controlnet),
    _sd(
        LatentConsistencyModelPipeline, prompted(original_inference_steps=50),
        unet=lambda: unet(time_cond_proj_dim=8),
        scheduler=lambda: tiny_scheduler(LCMScheduler),
    ),
    _sdxl(StableDiffusionXLPipeline, prompted(), "base"),
    _sdxl(
        StableDiffusionXLPipeline, prompted(), "per-channel latents",
        vae=vae(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 0.5, 2.0, 1.5]),
    ),
    _sdxl(StableDiffusionXLImg2ImgPipeline, _from_picture, "base"),
    _sdxl(StableDiffusionXLImg2ImgPipeline, _from_picture, "refiner", refiner=True,
          requires_aesthetics_score=True),
    _sdxl(StableDiffusionXLInpaintPipeline, _inpainted),
    _family(StableUnCLIPPipeline, stable_unclip, prompted(prior_num_inference_steps=2)),
]  # fmt: skip
