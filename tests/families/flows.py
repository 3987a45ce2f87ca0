"""Transformers on a straight line (flow matching), on latents as they are or packed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from families.parts import (
    PROMPT,
    WIDTH,
    Family,
    byte_tokenizer,
    clip_text,
    clip_text_projected,
    clip_tokenizer,
    flow,
    flow_vae,
    gemma,
    prompted,
    ready,
    seeded,
    t5,
    vae,
)
from PIL import Image
from transformers import (
    GlmConfig,
    GlmModel,
    Qwen3Config,
    Qwen3Model,
    UMT5Config,
    UMT5EncoderModel,
)

BLOCKS: dict[str, Any] = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
TOWER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
PACKED = 16
"""Channels of four latents of four channels."""


def embedded(negative: bool = True, **more: Any) -> Callable[[int], dict[str, Any]]:
    """Call arguments with random prompt embeddings, for text encoders that are no small model."""

    def call(n: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(4)
        one, other = torch.randn(2, 1, 8, WIDTH, generator=generator)
        embeds = {"prompt_embeds": one} | ({"negative_prompt_embeds": other} if negative else {})
        return {name: value.repeat(n, 1, 1) for name, value in embeds.items()} | more

    return call


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


def flux(cls: Any, *, beside: int = 0) -> Any:
    """`beside`: channels of what the denoiser is shown beside the latents."""
    transformer = seeded(
        FluxTransformer2DModel,
        patch_size=1,
        in_channels=PACKED + beside,
        out_channels=PACKED,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        **BLOCKS,
    )
    pipe = cls(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=flow_vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=byte_tokenizer(),
    )
    return ready(pipe)


def flux2(cls: Any, **more: Any) -> Any:
    """Patches of 2 x 2 latents as channels, each normalised by the autoencoder's running values."""
    transformer = seeded(
        Flux2Transformer2DModel,
        in_channels=PACKED,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        **BLOCKS,
    )
    decoder = seeded(
        AutoencoderKLFlux2,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    generator = torch.Generator().manual_seed(2)
    decoder.bn.running_mean.normal_(std=0.3, generator=generator)
    decoder.bn.running_var.uniform_(0.5, 2.0, generator=generator)
    pipe = cls(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=decoder,
        text_encoder=None,
        tokenizer=None,
        **more,
    )
    return ready(pipe)


def chroma() -> Any:
    transformer = seeded(
        ChromaTransformer2DModel,
        patch_size=1,
        in_channels=PACKED,
        num_single_layers=1,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 4, 8],
        approximator_hidden_dim=16,
        approximator_layers=1,
        approximator_num_channels=16,
        **BLOCKS,
    )
    pipe = ChromaPipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=flow_vae(),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


def qwen_image() -> Any:
    """A frame axis in the latents, a mean and a deviation for each of their channels."""
    transformer = seeded(
        QwenImageTransformer2DModel,
        in_channels=PACKED,
        out_channels=4,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(8, 4, 4),
        **BLOCKS,
    )
    decoder = seeded(
        AutoencoderKLQwenImage,
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.0, 0.5, 2.0, 1.5],
    )
    pipe = QwenImagePipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=decoder,
        text_encoder=None,
        tokenizer=None,
    )
    return ready(pipe)


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


def _from_picture(n: int) -> dict[str, Any]:
    picture = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
    return {"prompt": [PROMPT] * n, "image": [picture] * n, "strength": 0.8, **S16}


def _inpainted(n: int) -> dict[str, Any]:
    """Everything is painted: the last x0 is then the picture, nothing is pasted back."""
    everything = Image.new("L", (16, 16), 255)
    return _from_picture(n) | {"mask_image": [everything] * n, "strength": 1.0}


def _kontext(n: int) -> dict[str, Any]:
    """The picture is more of the sequence: its own noise-free tokens."""
    given = _from_picture(n) | {"max_area": 256, "_auto_resize": False}
    return {name: value for name, value in given.items() if name != "strength"}


S16, S32 = ({"height": side, "width": side} for side in (16, 32))
SHORT = {"max_sequence_length": 16}


def _family(build: Callable[[], Any], call: Any, *args: Any) -> Family:
    pipeline = args[0].__name__ if args else ""
    return Family(pipeline, cache(build), call)


def _qwen(n: int) -> dict[str, Any]:
    mask = torch.ones(n, 8, dtype=torch.long)
    masks = {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask}
    return {**embedded(**S16)(n), **masks}


FAMILIES = [
    _family(lambda: sd3(StableDiffusion3Pipeline), prompted(**S16), StableDiffusion3Pipeline),
    _family(
        lambda: sd3(StableDiffusion3Img2ImgPipeline), _from_picture, StableDiffusion3Img2ImgPipeline
    ),
    _family(lambda: flux(FluxPipeline), prompted(**S16, **SHORT), FluxPipeline),
    _family(lambda: flux(FluxImg2ImgPipeline), _from_picture, FluxImg2ImgPipeline),
    _family(lambda: flux(FluxInpaintPipeline), _inpainted, FluxInpaintPipeline),
    _family(lambda: flux(FluxFillPipeline, beside=2 * PACKED), _inpainted, FluxFillPipeline),
    _family(lambda: flux(FluxKontextPipeline), _kontext, FluxKontextPipeline),
    _family(lambda: flux2(Flux2Pipeline), embedded(False, **S16), Flux2Pipeline),
    _family(lambda: flux2(Flux2KleinPipeline), embedded(**S16), Flux2KleinPipeline),
    _family(chroma, prompted(**S16, **SHORT), ChromaPipeline),
    _family(qwen_image, _qwen, QwenImagePipeline),
    _family(
        sana,
        prompted(**S32, use_resolution_binning=False, complex_human_instruction=None, **SHORT),
        SanaPipeline,
    ),
    _family(cogview4, prompted(**S16, **SHORT), CogView4Pipeline),
    _family(
        lumina2, prompted(**S32, system_prompt="Draw", max_sequence_length=32), Lumina2Pipeline
    ),
    _family(z_image, prompted(**S16, **SHORT), ZImagePipeline),
    _family(auraflow, prompted(**S16, **SHORT), AuraFlowPipeline),
]
