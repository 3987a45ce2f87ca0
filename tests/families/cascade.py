"""Stable Cascade: the stage that makes pictures, from the embedding that a prior has made."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeDecoderPipeline, StableCascadeUNet
from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel
from families.parts import WIDTH, Family, clip_text_projected, clip_tokenizer, ready, seeded

SIDE = 4
"""Of the embedding; the latents are twice as wide, the picture eight times."""


def paella(contrast: float = 1.0) -> Any:
    """Four pixels to a latent; images in [0, 1], mostly, for latents of a size of 1 / contrast."""
    vqgan = seeded(
        PaellaVQModel, levels=2, bottleneck_blocks=1, embed_dim=16, latent_channels=4,
        num_vq_embeddings=16, scale_factor=0.5,
    )  # fmt: skip
    last = vqgan.out_block[0]
    last.weight.data *= contrast
    last.bias.data.fill_(0.5)
    return vqgan


def decoder_unet() -> Any:
    return seeded(
        StableCascadeUNet,
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        timestep_ratio_embedding_dim=8,
        block_out_channels=(16,),
        num_attention_heads=(-1,),
        down_num_layers_per_block=(1,),
        up_num_layers_per_block=(1,),
        down_blocks_repeat_mappers=(1,),
        up_blocks_repeat_mappers=(1,),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock"),),
        clip_text_pooled_in_channels=WIDTH,
        effnet_in_channels=WIDTH,
        clip_seq=1,
        dropout=(0.0,),
        self_attn=False,
        timestep_conditioning_type=("sca",),
        patch_size=1,
    )


def stable_cascade() -> Any:
    pipe = StableCascadeDecoderPipeline(
        decoder=decoder_unet(),
        tokenizer=clip_tokenizer(),
        text_encoder=clip_text_projected(),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=paella(0.03),  # one step from pure noise makes latents of 30
        latent_dim_scale=2.0,
    )
    return ready(pipe)


def call(n: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    embedding = torch.randn(1, WIDTH, SIDE, SIDE, generator=generator)
    return {"image_embeddings": embedding.repeat(n, 1, 1, 1), "prompt": ["a fox"] * n}


FAMILIES = [Family("StableCascadeDecoderPipeline", cache(stable_cascade), call)]
