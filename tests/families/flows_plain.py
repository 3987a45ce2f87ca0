"""Transformers on a straight line (flow matching), on latents as they are."""

from __future__ import annotations

from typing import Any

from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from families.flow_parts import S16, S32, SHORT, TOWER, family
from families.parts import (
    WIDTH,
    byte_tokenizer,
    flow,
    flow_vae,
    gemma,
    prompted,
    ready,
    seeded,
    vae,
)
from transformers import GlmConfig, GlmModel, Qwen3Config, Qwen3Model, UMT5Config, UMT5EncoderModel


def sana() -> Any:
    transformer = seeded(
        SanaTransformer2DModel,
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
    levels: dict[str, Any] = {}
    for half in ("encoder", "decoder"):
        levels |= {
            f"{half}_block_types": ("ResBlock",) * 3,
            f"{half}_block_out_channels": (8, 8, 8),
            f"{half}_qkv_multiscales": ((), (), ()),
            f"{half}_layers_per_block": (1, 1, 1),
        }
    decoder = seeded(AutoencoderDC, latent_channels=4, scaling_factor=0.41407, **levels)
    pipe = SanaPipeline(
        transformer=transformer,
        scheduler=flow(shift=3.0),
        vae=decoder,
        text_encoder=gemma(),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


def cogview4() -> Any:
    transformer = seeded(
        CogView4Transformer2DModel,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
    )
    config = GlmConfig(vocab_size=len(byte_tokenizer()), pad_token_id=0, **TOWER)
    pipe = CogView4Pipeline(
        transformer=transformer,
        scheduler=flow(
            base_shift=0.25, max_shift=0.75, use_dynamic_shifting=True, time_shift_type="linear"
        ),
        vae=vae(scaling_factor=0.9),
        text_encoder=seeded(GlmModel, config),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


def lumina2() -> Any:
    transformer = seeded(
        Lumina2Transformer2DModel,
        sample_size=4,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        cap_feat_dim=WIDTH,
    )
    pipe = Lumina2Pipeline(
        transformer=transformer,
        scheduler=flow(shift=6.0),
        vae=flow_vae(4),  # the pipeline takes 8 pixels to a latent for granted
        text_encoder=gemma(),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


def z_image() -> Any:
    transformer = seeded(
        ZImageTransformer2DModel,
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    config = Qwen3Config(vocab_size=len(byte_tokenizer()), **TOWER)
    pipe = ZImagePipeline(
        transformer=transformer,
        scheduler=flow(shift=3.0),
        vae=flow_vae(),
        text_encoder=seeded(Qwen3Model, config),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


def auraflow() -> Any:
    transformer = seeded(
        AuraFlowTransformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )
    config = UMT5Config(
        vocab_size=len(byte_tokenizer()), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    pipe = AuraFlowPipeline(
        transformer=transformer,
        scheduler=flow(shift=1.73),
        vae=vae(scaling_factor=0.13025),
        text_encoder=seeded(UMT5EncoderModel, config),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


FAMILIES = [
    family(
        sana,
        prompted(**S32, use_resolution_binning=False, complex_human_instruction=None, **SHORT),
        SanaPipeline,
    ),
    family(cogview4, prompted(**S16, **SHORT), CogView4Pipeline),
    family(lumina2, prompted(**S32, system_prompt="Draw", max_sequence_length=32), Lumina2Pipeline),
    family(z_image, prompted(**S16, **SHORT), ZImagePipeline),
    family(auraflow, prompted(**S16, **SHORT), AuraFlowPipeline),
]
