"""Transformers on a straight line (flow matching)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    BriaTransformer2DModel,
    CogView4Transformer2DModel,
    Flux2KleinPipeline,
    Flux2Pipeline,
    FluxControlNetModel,
    FluxPipeline,
    LuminaNextDiT2DModel,
    OvisImageTransformer2DModel,
    PRXTransformer2DModel,
    QwenImageControlNetModel,
    SanaControlNetModel,
    SCMScheduler,
    SD3ControlNetModel,
    StableDiffusion3Pipeline,
)
from families import flows_packed, flows_plain
from families.flow_parts import BLOCKS, embedded
from families.flows_packed import PACKED, flux, flux2
from families.latent_unets import PICTURE
from families.parts import WIDTH, byte_tokenizer, flow, flow_vae, gemma, seeded, t5, vae
from families.stable_diffusion_3 import sd3
from sweep.case import Case, case, heard


def pool(build: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    """The components of a pipeline of the family table."""
    return lambda: dict(build().components)


# ------------------------------------------------------------------------- Stable Diffusion 3


def sd3_pool() -> dict[str, Any]:
    return dict(sd3(StableDiffusion3Pipeline).components)


def sd3_of_sixteen() -> dict[str, Any]:
    """Of the channels of the real ones, which inpainting asks for."""
    model = sd3(StableDiffusion3Pipeline).transformer
    config = {**model.config, "in_channels": 16, "out_channels": 16}
    wide = vae(latent_channels=16, scaling_factor=0.9, shift_factor=0.2)
    return {"transformer": seeded(type(model), **config), "vae": wide}


def sd3_controlled(beside: int = 0) -> Any:
    def parts() -> dict[str, Any]:
        net = seeded(
            SD3ControlNetModel,
            sample_size=8,
            patch_size=1,
            in_channels=4,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
            pos_embed_max_size=16,
            extra_conditioning_channels=beside,
            **BLOCKS,
        )
        return {"controlnet": heard(net)}

    return parts


# -------------------------------------------------------------------------------------- Flux


def flux_pool(beside: int = 0) -> Any:
    return lambda: dict(flux(FluxPipeline, beside=beside).components)


def flux_controlled() -> dict[str, Any]:
    net = seeded(
        FluxControlNetModel,
        patch_size=1,
        in_channels=PACKED,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        **BLOCKS,
    )
    return {"controlnet": heard(net)}


def flux2_pool(cls: Any = Flux2Pipeline) -> Any:
    return lambda: dict(flux2(cls).components)


UNSHIFTED = "diffusers 0.42 leaves the autoencoder's shift_factor out when it decodes"
KONTEXT: dict[str, Any] = {"max_area": 256, "_auto_resize": False}
EMBEDS = embedded(False)(1)
BOTH = embedded()(1)
NO_TEXT: dict[str, Any] = {"prompt": None, "image": None}

# --------------------------------------------------------------------------------- Qwen-Image

MASK = torch.ones(1, 8, dtype=torch.long)
QWEN = {**BOTH, "prompt": None, "prompt_embeds_mask": MASK, "negative_prompt_embeds_mask": MASK}


def qwen_controlled(beside: int = 0) -> Any:
    def parts() -> dict[str, Any]:
        net = seeded(
            QwenImageControlNetModel,
            in_channels=PACKED,
            out_channels=4,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(8, 4, 4),
            extra_condition_channels=beside,
            **BLOCKS,
        )
        return {"controlnet": heard(net)}

    return parts


# -------------------------------------------------------------------------------------- Sana


def sana_controlled() -> dict[str, Any]:
    net = seeded(
        SanaControlNetModel,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
    )
    return {"controlnet": heard(net)}


def sana_sprint() -> dict[str, Any]:
    model = flows_plain.sana().transformer
    config = {**model.config, "guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    return {"transformer": seeded(type(model), **config), "scheduler": SCMScheduler()}


SANA: dict[str, Any] = {"height": 32, "width": 32, "complex_human_instruction": None}

# -------------------------------------------------------------------------------------- others


def bria() -> dict[str, Any]:
    transformer = seeded(
        BriaTransformer2DModel,
        patch_size=1,
        in_channels=PACKED,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=None,
        axes_dims_rope=[4, 4, 8],
        **BLOCKS,
    )
    return {
        "transformer": transformer, "scheduler": flow(use_dynamic_shifting=True), "vae": flow_vae(),
        "text_encoder": t5(), "tokenizer": byte_tokenizer(),
    }  # fmt: skip


def ovis() -> dict[str, Any]:
    transformer = seeded(
        OvisImageTransformer2DModel,
        patch_size=1,
        in_channels=PACKED,
        out_channels=PACKED,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        **BLOCKS,
    )
    return {
        "transformer": transformer, "scheduler": flow(use_dynamic_shifting=True), "vae": flow_vae(),
    }  # fmt: skip


def lumina() -> dict[str, Any]:
    transformer = seeded(
        LuminaNextDiT2DModel,
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=2,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    return {
        "transformer": transformer, "scheduler": flow(shift=6.0), "vae": vae(4),
        "text_encoder": gemma(), "tokenizer": byte_tokenizer(),
    }  # fmt: skip


def prx() -> dict[str, Any]:
    transformer = seeded(
        PRXTransformer2DModel,
        in_channels=4,
        patch_size=1,
        context_in_dim=WIDTH,
        hidden_size=16,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    return {
        "transformer": transformer, "scheduler": flow(shift=3.0), "vae": flow_vae(4),
        "text_encoder": gemma(), "tokenizer": byte_tokenizer(),
    }  # fmt: skip


def cogview4_controlled() -> dict[str, Any]:
    model = flows_plain.cogview4().transformer
    return {"transformer": seeded(CogView4Transformer2DModel, **{**model.config, "in_channels": 8})}


FLUX = flux_pool()
CHROMA = pool(flows_packed.chroma)
QWEN_POOL = pool(flows_packed.qwen_image)
SANA_POOL = pool(flows_plain.sana)
Z_IMAGE = pool(flows_plain.z_image)
CASES: list[Case] = [
    case("StableDiffusion3Pipeline", sd3_pool),
    case("StableDiffusion3Img2ImgPipeline", sd3_pool),
    case("StableDiffusion3InpaintPipeline", sd3_pool, parts=sd3_of_sixteen, why=UNSHIFTED),
    case("StableDiffusion3PAGPipeline", sd3_pool, parts=lambda: {"pag_applied_layers": "0"}),
    case("StableDiffusion3PAGImg2ImgPipeline", sd3_pool,
         parts=lambda: {"pag_applied_layers": "0"}),
    case("StableDiffusion3ControlNetPipeline", sd3_pool, parts=sd3_controlled()),
    case("StableDiffusion3ControlNetInpaintingPipeline", sd3_pool, parts=sd3_controlled(1),
         control_mask=PICTURE.convert("L")),
    case("FluxPipeline", FLUX),
    case("FluxImg2ImgPipeline", FLUX),
    case("FluxInpaintPipeline", FLUX),
    case("FluxFillPipeline", flux_pool(2 * PACKED)),
    case("FluxKontextPipeline", FLUX, **KONTEXT),
    case("FluxKontextInpaintPipeline", FLUX, **KONTEXT),
    case("FluxControlPipeline", flux_pool(PACKED)),
    case("FluxControlImg2ImgPipeline", flux_pool(PACKED)),
    case("FluxControlInpaintPipeline", flux_pool(PACKED)),
    case("FluxControlNetPipeline", FLUX, parts=flux_controlled),
    case("FluxControlNetImg2ImgPipeline", FLUX, parts=flux_controlled),
    case("FluxControlNetInpaintPipeline", FLUX, parts=flux_controlled),
    case("Flux2Pipeline", flux2_pool(), **NO_TEXT, **EMBEDS),
    case("Flux2KleinPipeline", flux2_pool(Flux2KleinPipeline), **NO_TEXT, **BOTH),
    case("Flux2KleinKVPipeline", flux2_pool(Flux2KleinPipeline), prompt=None,
         image=PICTURE.resize((64, 64)), **EMBEDS),
    case("Flux2KleinInpaintPipeline", flux2_pool(Flux2KleinPipeline), prompt=None, **BOTH),
    case("ChromaPipeline", CHROMA),
    case("ChromaImg2ImgPipeline", CHROMA),
    case("ChromaInpaintPipeline", CHROMA),
    case("QwenImagePipeline", QWEN_POOL, **QWEN),
    case("QwenImageImg2ImgPipeline", QWEN_POOL, **QWEN),
    case("QwenImageInpaintPipeline", QWEN_POOL, **QWEN),
    case("QwenImageControlNetPipeline", QWEN_POOL, parts=qwen_controlled(), **QWEN),
    case("QwenImageControlNetInpaintPipeline", QWEN_POOL, parts=qwen_controlled(4),
         control_mask=PICTURE.convert("L"), **QWEN),
    case("ZImagePipeline", Z_IMAGE),
    case("ZImageImg2ImgPipeline", Z_IMAGE),
    case("ZImageInpaintPipeline", Z_IMAGE),
    case("SanaPipeline", SANA_POOL, **SANA),
    case("SanaPAGPipeline", SANA_POOL, parts=lambda: {"pag_applied_layers": "blocks.0"}, **SANA),
    case("SanaControlNetPipeline", SANA_POOL, parts=sana_controlled, **SANA),
    case("SanaSprintPipeline", SANA_POOL, parts=sana_sprint, num_inference_steps=2, **SANA),
    case("SanaSprintImg2ImgPipeline", SANA_POOL, parts=sana_sprint, num_inference_steps=2,
         **SANA),
    case("AuraFlowPipeline", pool(flows_plain.auraflow)),
    case("Lumina2Pipeline", pool(flows_plain.lumina2), height=32, width=32,
         system_prompt="Draw", max_sequence_length=32),
    case("LuminaPipeline", lumina, height=32, width=32),
    case("CogView4Pipeline", pool(flows_plain.cogview4)),
    case("CogView4ControlPipeline", pool(flows_plain.cogview4), parts=cogview4_controlled),
    case("BriaPipeline", bria),
    case("OvisImagePipeline", ovis, prompt=None, guidance_scale=1.0, **EMBEDS),
    case("PRXPipeline", prx, height=32, width=32, parts=lambda: {"default_sample_size": 32}),
]  # fmt: skip
