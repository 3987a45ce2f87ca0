"""Stable Diffusion 3: a straight line (flow matching), latents as they are."""

from __future__ import annotations

from typing import Any

from diffusers import (
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
)
from families.flow_parts import BLOCKS, S16, family, from_picture
from families.parts import (
    WIDTH,
    clip_text_projected,
    clip_tokenizer,
    flow,
    flow_vae,
    prompted,
    ready,
    seeded,
)


def sd3(cls: Any) -> Any:
    transformer = seeded(
        SD3Transformer2DModel,
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        **BLOCKS,
    )
    pipe = cls(
        transformer=transformer,
        scheduler=flow(shift=3.0),
        vae=flow_vae(),
        text_encoder=clip_text_projected(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text_projected(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    return ready(pipe)


FAMILIES = [
    family(lambda: sd3(StableDiffusion3Pipeline), prompted(**S16), StableDiffusion3Pipeline),
    family(
        lambda: sd3(StableDiffusion3Img2ImgPipeline), from_picture, StableDiffusion3Img2ImgPipeline
    ),
]
