"""Diffusion transformers and Kandinsky: variance-preserving noise, latents as they are."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from diffusers import (
    DDPMScheduler,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    KandinskyV22Pipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    VQModel,
)
from families.parts import WIDTH, Family, byte_tokenizer, ddim, prompted, ready, seeded, t5, vae
from transformers import BertConfig, BertModel

S16, S32 = ({"height": side, "width": side} for side in (16, 32))


def pixart_sigma() -> Any:
    """Its denoiser predicts a variance too, which the pipeline drops."""
    transformer = seeded(
        PixArtTransformer2DModel,
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=WIDTH,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    pipe = PixArtSigmaPipeline(
        transformer=transformer,
        scheduler=ddim(),
        vae=vae(scaling_factor=0.13025),
        text_encoder=t5(),
        tokenizer=byte_tokenizer(),
    )
    return ready(pipe)


def hunyuan_dit() -> Any:
    """v-prediction, two text encoders of fixed lengths."""
    transformer = seeded(
        HunyuanDiT2DModel,
        sample_size=8,
        num_layers=2,
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
    config = BertConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    pipe = HunyuanDiTPipeline(
        transformer=transformer,
        scheduler=ddim(prediction_type="v_prediction"),
        vae=vae(scaling_factor=0.13025),
        text_encoder=seeded(BertModel, config),
        tokenizer=byte_tokenizer(77),
        text_encoder_2=t5(),
        tokenizer_2=byte_tokenizer(256),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return ready(pipe)


def kandinsky22() -> Any:
    """The decoder pipeline: image embeddings in, latents of a quantised autoencoder (MoVQ)."""
    unet = seeded(
        UNet2DConditionModel,
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
    )
    movq = seeded(
        VQModel,
        block_out_channels=(32, 32),  # normalised in 32 groups
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    movq.decoder.conv_out.weight.data /= 10  # pictures mostly inside [-1, 1], as trained ones are
    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, variance_type="learned_range", clip_sample=False
    )
    return ready(KandinskyV22Pipeline(unet=unet, scheduler=scheduler, movq=movq))


def _embeds(n: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    positive, negative = torch.randn(2, 1, WIDTH, generator=generator)
    embeds = {"image_embeds": positive, "negative_image_embeds": negative}
    return {name: value.repeat(n, 1) for name, value in embeds.items()} | S32


FAMILIES = [
    Family("PixArtSigmaPipeline", cache(pixart_sigma),
           prompted(
            **S16, use_resolution_binning=False, clean_caption=False, max_sequence_length=16
        )),
    Family("HunyuanDiTPipeline", cache(hunyuan_dit),
           prompted(**S16, use_resolution_binning=False)),
    Family("KandinskyV22Pipeline", cache(kandinsky22), _embeds, signed=True),
]  # fmt: skip
