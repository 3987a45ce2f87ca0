"""Stable Diffusion XL, and what is made of its parts."""

from __future__ import annotations

from functools import partial
from typing import Any

from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    ControlNetXSAdapter,
    StableDiffusionXLPipeline,
    T2IAdapter,
)
from families.latent_unets import DOWN, PICTURE, sdxl
from families.parts import WIDTH, seeded
from sweep.case import Case, case, heard

TIMES: dict[str, Any] = {
    "transformer_layers_per_block": (1, 1),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + WIDTH,
}


def pool() -> dict[str, Any]:
    return {k: v for k, v in sdxl(StableDiffusionXLPipeline).components.items() if v is not None}


def _controlnet(cls: Any, **more: Any) -> dict[str, Any]:
    net = seeded(
        cls,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=2 * WIDTH,
        down_block_types=DOWN,
        conditioning_embedding_out_channels=(4, 8),
        **TIMES,
        **more,
    )
    return {"controlnet": heard(net)}


controlled = partial(_controlnet, ControlNetModel)
union = partial(
    _controlnet, ControlNetUnionModel, num_trans_channel=8, num_trans_head=2, num_proj_channel=8
)


def thin_controlnet() -> dict[str, Any]:
    small = pool()["unet"]
    base = seeded(type(small), **{**small.config, "layers_per_block": 2})  # taken for granted
    net = ControlNetXSAdapter.from_unet(
        base, size_ratio=1, conditioning_embedding_out_channels=(4, 8)
    )
    return {"unet": base, "controlnet": heard(net)}


def adapter() -> dict[str, Any]:
    made = seeded(
        T2IAdapter, channels=[8, 16], num_res_blocks=1, downscale_factor=2,
        adapter_type="full_adapter",
    )  # fmt: skip
    return {"adapter": made}


def beside_picture() -> dict[str, Any]:
    pipe = sdxl(StableDiffusionXLPipeline)
    config = {**pipe.unet.config, "in_channels": 8}
    return {"unet": seeded(type(pipe.unet), **config)}


def of(name: str, **more: Any) -> Case:
    return case(name, pool, **more)


CONTROLLED: dict[str, Any] = {"parts": controlled}
UNION: dict[str, Any] = {"parts": union, "control_mode": 0, "control_image": PICTURE}

CASES = [
    of("StableDiffusionXLPipeline"),
    of("StableDiffusionXLImg2ImgPipeline"),
    of("StableDiffusionXLInpaintPipeline"),
    of("StableDiffusionXLControlNetPipeline", **CONTROLLED),
    of("StableDiffusionXLControlNetImg2ImgPipeline", **CONTROLLED),
    of("StableDiffusionXLControlNetInpaintPipeline", **CONTROLLED),
    of("StableDiffusionXLControlNetUnionPipeline", **UNION),
    of("StableDiffusionXLControlNetUnionImg2ImgPipeline", **UNION),
    of("StableDiffusionXLControlNetUnionInpaintPipeline", **UNION),
    of("StableDiffusionXLControlNetXSPipeline", parts=thin_controlnet),
    of("StableDiffusionXLPAGPipeline"),
    of("StableDiffusionXLPAGImg2ImgPipeline"),
    of("StableDiffusionXLPAGInpaintPipeline"),
    of("StableDiffusionXLControlNetPAGPipeline", **CONTROLLED),
    of("StableDiffusionXLControlNetPAGImg2ImgPipeline", **CONTROLLED),
    of("StableDiffusionXLAdapterPipeline", parts=adapter),
    of("StableDiffusionXLInstructPix2PixPipeline", parts=beside_picture),
]
