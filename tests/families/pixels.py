"""Pipelines that denoise pixels: no autoencoder."""

from __future__ import annotations

from functools import cache
from typing import Any

from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    IFPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from families.parts import WIDTH, Family, byte_tokenizer, prompted, ready, seeded, t5

SIZE = 16


def unconditional(cls: Any, scheduler: Any) -> Any:
    unet = seeded(
        UNet2DModel,
        sample_size=SIZE,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return ready(cls(unet=unet, scheduler=scheduler))


def deepfloyd() -> Any:
    """Learned variance in a second half of the output, and dynamic thresholding."""
    unet = seeded(
        UNet2DConditionModel,
        sample_size=SIZE,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        in_channels=3,
        out_channels=6,
        cross_attention_dim=32,  # normalised in 32 groups
        encoder_hid_dim=WIDTH,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    pipe = IFPipeline(
        tokenizer=byte_tokenizer(),
        text_encoder=t5(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    return ready(pipe)


def _batch(n: int) -> dict[str, Any]:
    return {"batch_size": n}


FAMILIES = [
    Family("DDPMPipeline", cache(lambda: unconditional(DDPMPipeline, DDPMScheduler())), _batch),
    Family("DDIMPipeline", cache(lambda: unconditional(DDIMPipeline, DDIMScheduler())), _batch),
    Family("IFPipeline", cache(deepfloyd), prompted(clean_caption=False), signed=True),
]
