"""Stage 5: everything in half precision, in folders that each library's from_pretrained reads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from . import models


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """The text tower of ``clip`` as the CLIPTextModel of a diffusion pipeline."""
    encoder = CLIPTextModel(clip.config.text_config)
    # newer versions of transformers have one class for both, 5.3 wraps it here
    same = getattr(encoder, "text_model", encoder)
    same.load_state_dict(clip.text_model.state_dict())
    return encoder.eval().requires_grad_(False)


def save_clip(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """A folder for ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained``."""
    clip.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    models.build_image_processor(clip.config.vision_config.image_size).save_pretrained(folder)
    clip.float()


def save_decoder(decoder: AutoencoderTiny, folder: Path) -> None:
    """A folder for ``AutoencoderTiny.from_pretrained``."""
    decoder.to(torch.float16).save_pretrained(folder)
    _forget(folder / "config.json")
    decoder.float()


def save_pipeline(
    vae: AutoencoderTiny, clip: CLIPModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel,
    scheduler: DDIMScheduler, folder: Path,
) -> None:  # fmt: skip
    """A folder for ``StableDiffusionPipeline.from_pretrained``."""
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder_of(clip), tokenizer=tokenizer, unet=unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(torch.float16).save_pretrained(folder)
    for part in ("vae", "unet"):
        _forget(folder / part / "config.json")
    encoder = folder / "text_encoder" / "config.json"  # transformers loads in the dtype this names,
    config = json.loads(encoder.read_text()) | {"dtype": "float32"}  # diffusers in float32
    encoder.write_text(json.dumps(config, indent=2) + "\n")
    _name_for_every_version(folder / "text_encoder" / "model.safetensors")
    pipe.to(torch.float32)


def _name_for_every_version(weights: Path) -> None:
    """The names of a text tower as published pipelines have them.

    Newer versions of transformers write them without the prefix and read both; older ones fill the
    whole tower with random numbers where it is missing.
    """
    tensors = {
        f"text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(tensors, weights, metadata={"format": "pt"})


def _forget(config: Path) -> None:
    """Drop where the weights came from, and what AutoencoderTiny warns of when it reads it back."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    if settings["_class_name"] == "AutoencoderTiny":
        settings.pop("block_out_channels", None)
    config.write_text(json.dumps(settings, indent=2) + "\n")
