"""Transformers on variance-preserving noise, pixels, and Stable Cascade."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    CogVideoXDDIMScheduler,
    CogView3PlusTransformer2DModel,
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    DiTTransformer2DModel,
    HunyuanDiT2DControlNetModel,
    PNDMScheduler,
    RePaintScheduler,
    ScoreSdeVeScheduler,
    StableCascadeUNet,
    UNet2DModel,
    VQModel,
)
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt, WuerstchenPrior
from families import diffusions, pixels
from families.cascade import call as cascade_call
from families.cascade import decoder_unet, paella
from families.latent_unets import PICTURE
from families.parts import (
    WIDTH,
    byte_tokenizer,
    clip_text,
    clip_text_projected,
    clip_tokenizer,
    ddim,
    seeded,
    t5,
    vae,
)
from sweep.case import EVERYTHING, Case, case, heard

NOISE = "the last step adds noise to x0"

# ------------------------------------------------------------------------------- transformers


def pixart() -> dict[str, Any]:
    return dict(diffusions.pixart_sigma().components)


def hunyuan() -> dict[str, Any]:
    return dict(diffusions.hunyuan_dit().components)


def hunyuan_controlled() -> dict[str, Any]:
    net = seeded(
        HunyuanDiT2DControlNetModel,
        sample_size=8,
        transformer_num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=8,
        hidden_size=16,
        text_len=77,
        text_len_t5=256,
    )
    return {"controlnet": heard(net)}


def cogview3() -> dict[str, Any]:
    transformer = seeded(
        CogView3PlusTransformer2DModel,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=8,
    )
    scheduler = CogVideoXDDIMScheduler(set_alpha_to_one=True, prediction_type="v_prediction")
    return {
        "transformer": transformer, "scheduler": scheduler, "vae": vae(), "text_encoder": t5(),
        "tokenizer": byte_tokenizer(),
    }  # fmt: skip


def dit() -> dict[str, Any]:
    transformer = seeded(
        DiTTransformer2DModel,
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        norm_num_groups=4,
    )
    return {"transformer": heard(transformer), "scheduler": ddim(), "vae": vae()}


# ------------------------------------------------------------------------------------- pixels


def unconditional() -> dict[str, Any]:
    return dict(pixels.unconditional(DDIMPipeline, DDIMScheduler()).components)


def deepfloyd() -> dict[str, Any]:
    return dict(pixels.deepfloyd().components)


def enlarging() -> dict[str, Any]:
    """Shown the small picture beside its own, and how much noise that was given."""
    small = pixels.deepfloyd().unet
    config = {**small.config, "in_channels": 6, "class_embed_type": "timestep"}
    return {
        "unet": seeded(type(small), **config), "image_noising_scheduler": DDPMScheduler(),
    }  # fmt: skip


def latent_unconditional() -> dict[str, Any]:
    unet = seeded(
        UNet2DModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    vqvae = seeded(
        VQModel,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=16,
    )
    return {"unet": unet, "vqvae": vqvae, "scheduler": ddim()}


SMALL: dict[str, Any] = {"image": PICTURE.resize((8, 8))}
LARGE: dict[str, Any] = {**SMALL, "original_image": PICTURE}

# ------------------------------------------------------------------------------- Stable Cascade


def cascade() -> dict[str, Any]:
    return {
        "decoder": decoder_unet(), "tokenizer": clip_tokenizer(),
        "text_encoder": clip_text_projected(), "scheduler": DDPMWuerstchenScheduler(),
        "vqgan": paella(0.03), "latent_dim_scale": 2.0,
    }  # fmt: skip


def cascade_prior() -> dict[str, Any]:
    prior = seeded(
        StableCascadeUNet,
        in_channels=WIDTH,
        out_channels=WIDTH,
        conditioning_dim=16,
        timestep_ratio_embedding_dim=8,
        block_out_channels=(16,),
        num_attention_heads=(2,),
        down_num_layers_per_block=(1,),
        up_num_layers_per_block=(1,),
        down_blocks_repeat_mappers=(1,),
        up_blocks_repeat_mappers=(1,),
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock"),),
        clip_text_in_channels=WIDTH,
        clip_text_pooled_in_channels=WIDTH,
        clip_image_in_channels=WIDTH,
        dropout=(0.0,),
        self_attn=False,
        switch_level=(False,),
    )
    return {
        "prior": prior, "tokenizer": clip_tokenizer(), "text_encoder": clip_text_projected(),
        "scheduler": DDPMWuerstchenScheduler(), "resolution_multiple": 8.0,
    }  # fmt: skip


def cascade_combined() -> dict[str, Any]:
    prior = {f"prior_{name}": part for name, part in cascade_prior().items()}
    return {**cascade(), **prior}


def wuerstchen() -> dict[str, Any]:
    decoder = seeded(
        WuerstchenDiffNeXt,
        c_cond=WIDTH,
        c_hidden=[16],
        nhead=[-1],
        blocks=[1],
        level_config=["CT"],
        clip_embd=WIDTH,
        inject_effnet=[False],
        c_r=8,
    )
    return {
        "decoder": decoder, "tokenizer": clip_tokenizer(), "text_encoder": clip_text(),
        "scheduler": DDPMWuerstchenScheduler(), "vqgan": paella(), "latent_dim_scale": 2.0,
    }  # fmt: skip


def wuerstchen_prior() -> dict[str, Any]:
    prior = seeded(WuerstchenPrior, c_in=WIDTH, c=16, depth=1, c_cond=WIDTH, c_r=8, nhead=2)
    return {
        "prior": prior, "tokenizer": clip_tokenizer(), "text_encoder": clip_text(),
        "scheduler": DDPMWuerstchenScheduler(),
    }  # fmt: skip


def wuerstchen_combined() -> dict[str, Any]:
    prior = {f"prior_{name}": part for name, part in wuerstchen_prior().items()}
    return {**wuerstchen(), **prior}


EMBEDDING = torch.as_tensor(cascade_call(1)["image_embeddings"])
PAG: dict[str, Any] = {"parts": lambda: {"pag_applied_layers": "blocks.0"}}
PAG_ONE: dict[str, Any] = {"parts": lambda: {"pag_applied_layers": "0"}}
COMBINED: dict[str, Any] = {"prior_num_inference_steps": 2, "height": 128, "width": 128}

CASES: list[Case] = [
    case("PixArtAlphaPipeline", pixart),
    case("PixArtSigmaPipeline", pixart),
    case("PixArtSigmaPAGPipeline", pixart, **PAG),
    case("HunyuanDiTPipeline", hunyuan),
    case("HunyuanDiTPAGPipeline", hunyuan, **PAG),
    case("HunyuanDiTControlNetPipeline", hunyuan, parts=hunyuan_controlled),
    case("CogView3PlusPipeline", cogview3),
    case("DiTPipeline", dit, class_labels=[1]),
    case("DDPMPipeline", unconditional, parts=lambda: {"scheduler": DDPMScheduler()}),
    case("DDIMPipeline", unconditional),
    case("PNDMPipeline", unconditional, parts=lambda: {"scheduler": PNDMScheduler()},
         num_inference_steps=10),
    case("ConsistencyModelPipeline", unconditional,
         parts=lambda: {"scheduler": CMStochasticIterativeScheduler()}),
    case("RePaintPipeline", unconditional, parts=lambda: {"scheduler": RePaintScheduler()},
         image=PICTURE.resize((32, 32)), mask_image=PICTURE.convert("L").resize((32, 32)),
         jump_length=1, jump_n_sample=1),
    case("ScoreSdeVePipeline", unconditional, parts=lambda: {"scheduler": ScoreSdeVeScheduler()}),
    case("LDMPipeline", latent_unconditional),
    case("IFPipeline", deepfloyd, height=None, width=None),
    case("IFImg2ImgPipeline", deepfloyd),
    case("IFInpaintingPipeline", deepfloyd),
    case("IFSuperResolutionPipeline", deepfloyd, parts=enlarging, **SMALL),
    case("IFImg2ImgSuperResolutionPipeline", deepfloyd, parts=enlarging, **LARGE),
    case("IFInpaintingSuperResolutionPipeline", deepfloyd, parts=enlarging, **LARGE,
         mask_image=EVERYTHING),
    case("StableCascadeDecoderPipeline", cascade, image_embeddings=EMBEDDING, why=NOISE),
    case("StableCascadePriorPipeline", cascade_prior, height=128, width=128),
    case("StableCascadeCombinedPipeline", cascade_combined, why=NOISE, **COMBINED),
    case("WuerstchenDecoderPipeline", wuerstchen, image_embeddings=EMBEDDING, why=NOISE),
    case("WuerstchenPriorPipeline", wuerstchen_prior, height=128, width=128),
    case("WuerstchenCombinedPipeline", wuerstchen_combined, why=NOISE, **COMBINED),
]  # fmt: skip
