"""Architectures by their configs, no weights: SD 1.5, SDXL, SD3 medium, Flux, and ViT-B/32.

`width` divides channels and heads, for machines that cannot run the real size; 1 is the real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Inputs = Callable[[Tensor, Tensor, int, int], dict[str, Any]]
"""(latents (b, C, h, w), timesteps (b,), tokens, width) -> arguments of the denoiser."""


@dataclass(frozen=True)
class Shape:
    """One kind of model at its usual size.

    Attributes:
        pixels: side of the images.
        latent_channels: of its autoencoders.
        tokens: text tokens the denoiser attends to.
        branches: 2 with classifier-free guidance, 1 for a model that has it distilled in.
        flow: whether it predicts flow; epsilon otherwise.
        targets: what a guided step may cost at most (operations): x0 with the tiny autoencoder,
            and mode noisy with a tower made from the teacher's.
        reduced: (width, side of the images) for a measurement on a CPU.
        denoiser, inputs: width -> module, and how it is called.
        community: whether the community algorithm is made for it (Stable Diffusion 1.x).
    """

    name: str
    pixels: int
    latent_channels: int
    tokens: int
    branches: int
    flow: bool
    targets: tuple[float, float]
    reduced: tuple[int, int]
    denoiser: Callable[[int], nn.Module]
    inputs: Inputs
    community: bool = False


def _made(cls: Any, **config: Any) -> nn.Module:
    """A module of diffusers; their annotations of configs are narrower than what they take."""
    module: nn.Module = cls(**config)
    return module


def _sd15(width: int) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _made(
        UNet2DConditionModel,
        sample_size=64,
        block_out_channels=tuple(c // width for c in (320, 640, 1280, 1280)),
        norm_num_groups=32 // width,
        attention_head_dim=8,
        cross_attention_dim=768 // width,
    )


def _sdxl(width: int) -> nn.Module:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return _made(
        UNet2DConditionModel,
        sample_size=128,
        block_out_channels=tuple(c // width for c in (320, 640, 1280)),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        norm_num_groups=32 // width,
        cross_attention_dim=2048 // width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _sd3(width: int) -> nn.Module:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return _made(
        SD3Transformer2DModel,
        sample_size=128,
        num_layers=24,
        num_attention_heads=24 // width,
        attention_head_dim=64,
        joint_attention_dim=4096 // width,
        caption_projection_dim=64 * (24 // width),
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
    )


def _flux(width: int) -> nn.Module:
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    return _made(
        FluxTransformer2DModel,
        num_attention_heads=24 // width,
        joint_attention_dim=4096 // width,
        pooled_projection_dim=768,
        guidance_embeds=True,
    )


def _unet_inputs(x: Tensor, t: Tensor, tokens: int, width: int) -> dict[str, Any]:
    text = x.new_zeros(len(x), tokens, 768 // width)
    return {"sample": x, "timestep": t, "encoder_hidden_states": text}


def _sdxl_inputs(x: Tensor, t: Tensor, tokens: int, width: int) -> dict[str, Any]:
    text = x.new_zeros(len(x), tokens, 2048 // width)
    added = {"text_embeds": x.new_zeros(len(x), 1280), "time_ids": x.new_zeros(len(x), 6)}
    return {"sample": x, "timestep": t, "encoder_hidden_states": text, "added_cond_kwargs": added}


def _sd3_inputs(x: Tensor, t: Tensor, tokens: int, width: int) -> dict[str, Any]:
    return {
        "hidden_states": x,
        "timestep": t,
        "encoder_hidden_states": x.new_zeros(len(x), tokens, 4096 // width),
        "pooled_projections": x.new_zeros(len(x), 2048),
    }


def _flux_inputs(x: Tensor, t: Tensor, tokens: int, width: int) -> dict[str, Any]:
    packed = nn.functional.pixel_unshuffle(x, 2).flatten(2).mT  # (b, h·w/4, 4·C)
    return {
        "hidden_states": packed,
        "timestep": t / 1000,
        "guidance": x.new_full((len(x),), 3.5),
        "encoder_hidden_states": x.new_zeros(len(x), tokens, 4096 // width),
        "pooled_projections": x.new_zeros(len(x), 768),
        "txt_ids": x.new_zeros(tokens, 3),
        "img_ids": x.new_zeros(packed.shape[1], 3),
    }


# name -> shape; SD3 reads 77 + 256 tokens, Flux 512
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape("sd15", 512, 4, 77, 2, False, (1.20, 1.03), (8, 256), _sd15, _unet_inputs, True),
        Shape("sdxl", 1024, 4, 77, 2, False, (1.10, 1.02), (8, 256), _sdxl, _sdxl_inputs),
        Shape("sd3", 1024, 16, 333, 2, True, (1.08, 1.02), (8, 128), _sd3, _sd3_inputs),
        Shape("flux", 1024, 16, 512, 1, True, (1.03, 1.01), (8, 128), _flux, _flux_inputs),
    )
}


def autoencoder(channels: int, width: int) -> nn.Module:
    """The autoencoder of all four: factor 8, (128, 256, 512, 512) channels."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return _made(
        AutoencoderKL,
        block_out_channels=tuple(c // width for c in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=32 // width,
        latent_channels=channels,
    )


def tiny_autoencoder(channels: int, width: int) -> nn.Module:
    """TAESD."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    blocks = (64 // width,) * 4
    return _made(
        AutoencoderTiny,
        latent_channels=channels,
        encoder_block_out_channels=blocks,
        decoder_block_out_channels=blocks,
    )


def vision_tower(width: int, size: int) -> nn.Module:
    """The image tower of CLIP ViT-B/32."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=768 // width,
        intermediate_size=3072 // width,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=size,
        patch_size=32,
        projection_dim=512 // width,
    )
    with torch.device("meta"):  # transformers initialises weights one by one; empty is enough
        tower = CLIPVisionModelWithProjection(config)
    return tower


def latent_towers(
    width: int, size: int, channels: int, side: int
) -> dict[str, Callable[[], nn.Module]]:
    """Image towers as large as ViT-B that read latents of `side` cells: name -> how it is built.

    "teacher's": the tower of ViT-B/32 at `size` pixels behind its stem (`latent_teacher`);
    "ViT": one from scratch on 16 x 16 patches (`latent_vit`), 4 cells a side of 64, 8 of 128.
    """
    from clipguide.clip.latent_teacher import TeacherTower, TeacherTowerShape
    from clipguide.clip.latent_vit import LatentVit, LatentVitShape
    from clipguide.clip.teacher_tails import clip_vit_tail

    patch = max(1, side // 16)
    shape = TeacherTowerShape(channels, side, stem_width=64 // width)
    vit = LatentVitShape(
        channels, side // patch, patch, 768 // width, layers=12, heads=12, embed_dim=512 // width
    )
    return {
        "teacher's": lambda: TeacherTower(shape, clip_vit_tail(vision_tower(width, size))),
        "ViT": lambda: LatentVit(vit),
    }
