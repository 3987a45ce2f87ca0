"""From the latents of a ComfyUI sampler to the pictures that a reward sees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import comfy.taesd.taesd
import folder_paths
from torch import Tensor, nn

from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.guidance.inward_clamp import inward_clamp

PICTURE_VAES = ("AutoencoderKL", "AutoencodingEngine", "AutoencodingEngineLegacy", "TAESD")
"""Classes of ComfyUI whose `decode` makes one picture in [-1, 1] of each latent (B, C, h, w)."""


class PictureDecoder(nn.Module):
    """Latents as the sampler steps them, (B, C, h, w), to pictures (B, 3, H, W) in [0, 1].

    Args:
        decoder: has `decode`, to [-1, 1].
        unscale: from the sampler's scale to that which it decodes.
    """

    def __init__(self, decoder: nn.Module, unscale: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decoder = decoder.eval()
        self.unscale = unscale

    def forward(self, latents: Tensor) -> Tensor:
        weight = next(self.decoder.parameters())
        if weight.device != latents.device:
            with ordinary_tensors():
                self.decoder.to(latents.device)
        module: Any = self.decoder
        images: Tensor = module.decode(self.unscale(latents).to(weight.dtype))
        return inward_clamp(images.float() / 2 + 0.5)


def find_decoder(latent_format: Any, vae: Any) -> PictureDecoder:
    """The decoder of a model's latents: its VAE, where one is given, else a tiny one.

    Weights are copies of their own: those of ComfyUI's loaders are made in inference mode, and no
    gradient goes through them.

    Args:
        latent_format: of the model.
        vae: a ComfyUI VAE (its loader makes one of a TAESD too), or None for the TAESD in
            `models/vae_approx` that ComfyUI takes for previews of these latents.

    Raises:
        ValueError: latents of no picture; no tiny decoder for them; a VAE of another kind.
    """
    if latent_format.latent_dimensions != 2:
        raise ValueError(
            f"got a model whose latents are {type(latent_format).__name__}, not those of single "
            "pictures (B, C, h, w), expected a model of pictures"
        )
    return _tiny(latent_format) if vae is None else _of_vae(latent_format, vae)


def _tiny(latent_format: Any) -> PictureDecoder:
    name: str | None = latent_format.taesd_decoder_name
    kind = type(latent_format).__name__
    if name is None:
        raise ValueError(
            f"got latents of {kind}, for which there is no tiny decoder; connect the model's VAE"
        )
    files: list[str] = folder_paths.get_filename_list("vae_approx")
    file = next((file for file in files if file.startswith(name + ".")), None)
    if file is None:
        raise ValueError(
            f"got no {name} in ComfyUI's models/vae_approx, expected the TAESD of {kind} latents "
            f"there (https://github.com/madebyollin/taesd has {name}.safetensors), or the model's "
            "VAE connected"
        )
    path: str = folder_paths.get_full_path_or_raise("vae_approx", file)
    channels: int = latent_format.latent_channels
    with ordinary_tensors():
        tiny = comfy.taesd.taesd.TAESD(None, path, latent_channels=channels)
    return PictureDecoder(tiny, _itself)


def _of_vae(latent_format: Any, vae: Any) -> PictureDecoder:
    module: nn.Module = vae.first_stage_model
    if type(module).__name__ not in PICTURE_VAES:
        raise ValueError(
            f"got a VAE of class {type(module).__name__}, expected one of {', '.join(PICTURE_VAES)}"
        )
    if vae.latent_channels != latent_format.latent_channels:
        raise ValueError(
            f"got a VAE of {vae.latent_channels} channels for latents of "
            f"{latent_format.latent_channels}, expected the model's own VAE"
        )
    with ordinary_tensors():
        return PictureDecoder(copy.deepcopy(module), latent_format.process_out)


def _itself(latents: Tensor) -> Tensor:
    return latents
