"""Kandinsky 2.1, 2.2 and 3, Marigold, and priors: what makes embeddings or maps."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Kandinsky3UNet, PriorTransformer, UnCLIPScheduler
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from families.diffusions import kandinsky22
from families.latent_unets import PICTURE, unet
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
from PIL import Image
from sweep.case import EVERYTHING, Case, case
from sweep.stable_diffusion import extractor, vision

# ---------------------------------------------------------------------------------------- 2.2


def second() -> dict[str, Any]:
    return {**kandinsky22().components, "scheduler": ddim()}


def _unet(**config: Any) -> Any:
    made = kandinsky22().unet
    return seeded(type(made), **{**made.config, **config})


def filled() -> dict[str, Any]:
    return {"unet": _unet(in_channels=9)}


def hinted() -> dict[str, Any]:
    return {"unet": _unet(in_channels=8, addition_embed_type="image_hint")}


def prior() -> dict[str, Any]:
    network = seeded(
        PriorTransformer, num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH,
        num_layers=1,
    )  # fmt: skip
    network.clip_std.data.fill_(1.0)
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    return {
        "prior": network, "image_encoder": vision(), "text_encoder": clip_text_projected(),
        "tokenizer": clip_tokenizer(), "scheduler": scheduler, "image_processor": extractor(),
    }  # fmt: skip


def _with_prior(parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, **{f"prior_{name}": part for name, part in prior().items()}}


def second_with_prior() -> dict[str, Any]:
    return _with_prior(second())


def second_filled_with_prior() -> dict[str, Any]:
    return {**second_with_prior(), **filled()}


# ---------------------------------------------------------------------------------------- 2.1


def first() -> dict[str, Any]:
    """A text encoder of its own kind beside the image embedding."""
    config = MCLIPConfig(
        numDims=WIDTH, transformerDimensions=WIDTH, hidden_size=WIDTH, intermediate_size=32,
        num_attention_heads=2, num_hidden_layers=1, vocab_size=len(byte_tokenizer()),
    )  # fmt: skip
    made = _unet(
        addition_embed_type="text_image",
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_image_proj",
    )
    return {
        **second(), "unet": made, "text_encoder": seeded(MultilingualCLIP, config),
        "tokenizer": byte_tokenizer(77),
    }  # fmt: skip


def first_filled() -> dict[str, Any]:
    made = first()
    config = {**made["unet"].config, "in_channels": 9}
    return {**made, "unet": seeded(type(made["unet"]), **config)}


def first_with_prior() -> dict[str, Any]:
    return _with_prior(first())


def first_filled_with_prior() -> dict[str, Any]:
    return _with_prior(first_filled())


# ------------------------------------------------------------------------------------------ 3


def third() -> dict[str, Any]:
    made = seeded(
        Kandinsky3UNet,
        in_channels=4,
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(16, 32),
        cross_attention_dim=8,
        encoder_hid_dim=WIDTH,
    )
    return {
        "unet": made, "scheduler": ddim(), "movq": kandinsky22().movq, "text_encoder": t5(),
        "tokenizer": byte_tokenizer(128),
    }  # fmt: skip


# ----------------------------------------------------------------------------------- Marigold


def marigold() -> dict[str, Any]:
    return {
        "unet": unet(in_channels=8), "vae": vae(), "scheduler": ddim(),
        "text_encoder": clip_text(), "tokenizer": clip_tokenizer(),
    }  # fmt: skip


def marigold_pair() -> dict[str, Any]:
    return {"unet": unet(in_channels=12, out_channels=8), "prediction_type": "intrinsics"}


def _embedding(width: int, seed: int) -> torch.Tensor:
    return torch.randn(1, width, generator=torch.Generator().manual_seed(seed))


SIDE = 32
SIZE: dict[str, Any] = {"height": SIDE, "width": SIDE}
LARGE = PICTURE.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
MASK = EVERYTHING.resize((SIDE, SIDE))
EMBEDS: dict[str, Any] = {
    "image_embeds": _embedding(WIDTH, 4), "negative_image_embeds": _embedding(WIDTH, 5), **SIZE
}  # fmt: skip
HINT = torch.rand(1, 3, 8 * 16, 8 * 16, generator=torch.Generator().manual_seed(6))
PRIOR: dict[str, Any] = {"prior_num_inference_steps": 2, **SIZE}
MAP: dict[str, Any] = {"processing_resolution": 0}

CASES: list[Case] = [
    case("KandinskyPipeline", first, **EMBEDS),
    case("KandinskyImg2ImgPipeline", first, image=LARGE, **EMBEDS),
    case("KandinskyInpaintPipeline", first_filled, image=LARGE, mask_image=MASK, **EMBEDS),
    case("KandinskyPriorPipeline", prior),
    case("KandinskyCombinedPipeline", first_with_prior, **PRIOR),
    case("KandinskyImg2ImgCombinedPipeline", first_with_prior, image=LARGE, **PRIOR),
    case("KandinskyInpaintCombinedPipeline", first_filled_with_prior, image=LARGE,
         mask_image=MASK, **PRIOR),
    case("KandinskyV22Pipeline", second, **EMBEDS),
    case("KandinskyV22Img2ImgPipeline", second, image=LARGE, **EMBEDS),
    case("KandinskyV22InpaintPipeline", second, parts=filled, image=LARGE, mask_image=MASK,
         **EMBEDS),
    case("KandinskyV22ControlnetPipeline", second, parts=hinted, hint=HINT, **EMBEDS),
    case("KandinskyV22ControlnetImg2ImgPipeline", second, parts=hinted, hint=HINT, image=LARGE,
         **EMBEDS),
    case("KandinskyV22PriorPipeline", prior),
    case("KandinskyV22PriorEmb2EmbPipeline", prior),
    case("KandinskyV22CombinedPipeline", second_with_prior, **PRIOR),
    case("KandinskyV22Img2ImgCombinedPipeline", second_with_prior, image=LARGE, **PRIOR),
    case("KandinskyV22InpaintCombinedPipeline", second_filled_with_prior, image=LARGE,
         mask_image=MASK, **PRIOR),
    case("Kandinsky3Pipeline", third, **SIZE),
    case("Kandinsky3Img2ImgPipeline", third, image=LARGE),
    case("MarigoldDepthPipeline", marigold, prompt=None, **MAP),
    case("MarigoldNormalsPipeline", marigold, prompt=None, **MAP),
    case("MarigoldIntrinsicsPipeline", marigold, parts=marigold_pair, prompt=None, **MAP),
]  # fmt: skip
