"""What happens to pictures on their way: JPEG, blur, noise, an autoencoder."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from torch import Tensor

Transform: TypeAlias = Callable[[Image.Image], Image.Image]


def unchanged(image: Image.Image) -> Image.Image:
    """The image itself."""
    return image


def jpeg(quality: int) -> Transform:
    """Saved as JPEG of this ``quality`` (1 to 95) and read again.

    Example:
        >>> jpeg(85)(Image.new("RGB", (8, 8), "red")).size
        (8, 8)
    """

    def transform(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return transform


def blur(radius: float) -> Transform:
    """Blurred by a Gaussian of this standard deviation in pixels."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(radius))


def noise(sigma: float, seed: int = 0) -> Transform:
    """Gaussian noise of this standard deviation (of 255), the same for every image."""

    def transform(image: Image.Image) -> Image.Image:
        values = np.asarray(image, dtype=np.float64)
        values = values + np.random.default_rng(seed).normal(0.0, sigma, values.shape)
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))

    return transform


def autoencoder(vae: Any) -> Transform:
    """Encoded to the mode of the latents and decoded by ``vae``, a diffusers ``AutoencoderKL`` or
    ``AutoencoderTiny``. **Cost**: one encode and one decode per image."""
    import torch

    @torch.no_grad()
    def transform(image: Image.Image) -> Image.Image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        encoded = vae.encode((pixels / 127.5 - 1.0).to(vae.device, vae.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        decoded: Tensor = vae.decode(latents).sample
        values = (decoded[0].float().clamp(-1.0, 1.0) + 1.0) * 127.5
        return Image.fromarray(values.round().byte().permute(1, 2, 0).cpu().numpy())

    return transform
