"""Autoencoders of diffusers as training uses them: pictures to latents, as schedulers hold them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.clip.hub import fetch
from clipguide.clip.model_folder import check_folder
from clipguide.clip.refusals import refusing


def _mode(output: Any) -> Tensor:
    return output.latent_dist.mode()


def _latents(output: Any) -> Tensor:
    return output.latents


def _latent(output: Any) -> Tensor:
    return output.latent


READERS: dict[str, Callable[[Any], Tensor]] = {
    "AutoencoderKL": _mode,
    "AutoencoderTiny": _latents,
    "AutoencoderDC": _latent,
}
"""Class of an autoencoder -> what its encoder returned to latents, before they are scaled."""


def load_autoencoder(source: str) -> nn.Module:
    """An autoencoder of diffusers, float32, frozen.

    Args:
        source: a folder or a Hub repository of it; a folder inside is named after a colon, as in
            "stabilityai/stable-diffusion-xl-base-1.0:vae".

    Raises:
        ValueError: it cannot be loaded, or is of a kind that is not in `READERS`.
    """
    from diffusers.models import auto_model

    place, _, inner = source.partition(":")
    folder = Path(place).expanduser()
    if not folder.is_dir():
        within = f"{inner}/" if inner else ""
        files = ("config.json", "diffusion_pytorch_model*.safetensors*")
        folder = fetch(source, place, [f"{within}{file}" for file in files])
    check_folder(source, folder / inner)
    loader: Any = auto_model.AutoModel
    with refusing(source):
        model: nn.Module = loader.from_pretrained(
            str(folder / inner),
            use_safetensors=True,
            torch_dtype=torch.float32,
            trust_remote_code=False,
        )
    kind = type(model).__name__
    if kind not in READERS:
        raise ValueError(f"{source}: got a {kind}, expected one of {', '.join(READERS)}")
    return model.eval().requires_grad_(False)


def encode_images(autoencoder: Any, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] -> latents (B, C, h, w) as a scheduler steps them, scaled.

    The inverse of what `clipguide.attach.decoders` does before it decodes. A distribution gives
    its mode. **Cost**: one pass of the encoder.
    """
    config: Any = autoencoder.config
    pixels = (images * 2 - 1).to(autoencoder.dtype)
    latents = READERS[type(autoencoder).__name__](autoencoder.encode(pixels))
    scale = float(config.scaling_factor)
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and deviation is not None:
        mean, deviation = (
            torch.as_tensor(v).to(latents).view(1, -1, 1, 1) for v in (mean, deviation)
        )
        return (latents - mean) * scale / deviation
    return (latents - float(config.get("shift_factor") or 0.0)) * scale
