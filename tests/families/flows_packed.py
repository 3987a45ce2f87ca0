"""Transformers on a straight line (flow matching), on four latents packed into one token."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxFillPipeline,
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from families.flow_parts import BLOCKS, S16, SHORT, embedded, family, from_picture
from families.parts import (
    WIDTH,
    byte_tokenizer,
    clip_text,
    clip_tokenizer,
    flow,
    flow_vae,
    prompted,
    ready,
    seeded,
    t5,
)
from PIL import Image

PACKED = 16
"""Channels of four latents of four channels."""


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


def _inpainted(n: int) -> dict[str, Any]:
    """Everything is painted: the last x0 is then the picture, nothing is pasted back."""
    everything = Image.new("L", (16, 16), 255)
    return from_picture(n) | {"mask_image": [everything] * n, "strength": 1.0}


def _kontext(n: int) -> dict[str, Any]:
    """The picture is more of the sequence: its own noise-free tokens."""
    given = from_picture(n) | {"max_area": 256, "_auto_resize": False}
    return {name: value for name, value in given.items() if name != "strength"}


def _qwen(n: int) -> dict[str, Any]:
    mask = torch.ones(n, 8, dtype=torch.long)
    masks = {"prompt_embeds_mask": mask, "negative_prompt_embeds_mask": mask}
    return {**embedded(**S16)(n), **masks}


FAMILIES = [
    family(lambda: flux(FluxPipeline), prompted(**S16, **SHORT), FluxPipeline),
    family(lambda: flux(FluxImg2ImgPipeline), from_picture, FluxImg2ImgPipeline),
    family(lambda: flux(FluxInpaintPipeline), _inpainted, FluxInpaintPipeline),
    family(lambda: flux(FluxFillPipeline, beside=2 * PACKED), _inpainted, FluxFillPipeline),
    family(lambda: flux(FluxKontextPipeline), _kontext, FluxKontextPipeline),
    family(lambda: flux2(Flux2Pipeline), embedded(False, **S16), Flux2Pipeline),
    family(lambda: flux2(Flux2KleinPipeline), embedded(**S16), Flux2KleinPipeline),
    family(chroma, prompted(**S16, **SHORT), ChromaPipeline),
    family(qwen_image, _qwen, QwenImagePipeline),
]
