"""From latents to the images a reward sees: one row per kind of autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.guidance.gradient import Decode
from clipguide.guidance.parameterization import at_least_float

Build = Callable[[Any], Decode]
"""An autoencoder module -> its decode function."""


class _InwardClamp(torch.autograd.Function):
    """Clamp to [0, 1] whose gradient stays alive outside where climbing it leads back inside.

    A plain clamp is deaf to every saturated pixel. For a reward that is climbed, a pixel above 1
    keeps a negative gradient and one below 0 a positive one (after Crowson 2021, `ClampWithGrad`
    of VQGAN-CLIP, Crowson et al. 2022, https://arxiv.org/abs/2204.08583).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        (gradient,) = grad_outputs
        outward = ((x > 1) & (gradient > 0)) | ((x < 0) & (gradient < 0))
        return gradient.masked_fill(outward, 0)


def inward_clamp(x: Tensor) -> Tensor:
    """x clamped to [0, 1]; outside, only a gradient that leads back inside passes."""
    clamped: Tensor = _InwardClamp.apply(x)
    return clamped


def _scaled_2d(vae: Any) -> Decode:
    """(B, C, h, w) latents, scaled and shifted by the autoencoder's config; images of [-1, 1]."""

    plain_decode: Callable[..., Any] = vae.decode  # also inside mode xt, which wraps the method

    def decode(latents: Tensor) -> Tensor:
        channels = int(vae.config.latent_channels)
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise NotImplementedError(
                f"latents of shape {tuple(latents.shape)} are not the (B, {channels}, h, w) that "
                f"{type(vae).__name__} decodes; pass decoder= a function from latents to images, "
                "or add one with clipguide.register_decoder"
            )
        shift = float(vae.config.get("shift_factor") or 0.0)
        z = latents / float(vae.config.scaling_factor) + shift
        images: Tensor = plain_decode(z.to(vae.dtype), return_dict=False)[0]
        return inward_clamp(at_least_float(images) / 2 + 0.5)  # (B, 3, H, W)

    return decode


# class name of the autoencoder -> builder
DECODERS: dict[str, Build] = {
    "AutoencoderKL": _scaled_2d,
    "AutoencoderTiny": _scaled_2d,
}


def needs_upcast(vae: Any) -> bool:
    """Whether an autoencoder overflows in its present dtype by its own config."""
    return vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))


@contextmanager
def upcast(module: nn.Module | None) -> Generator[None]:
    """A float16 autoencoder that needs it is float32 inside, and float16 again after.

    The cast up is exact and the cast down returns the same bits; the weights stay up through the
    backward pass.
    """
    if module is None or not needs_upcast(module):
        yield
        return
    module.to(torch.float32)
    try:
        yield
    finally:
        module.to(torch.float16)


def register_decoder(name: str, build: Build) -> None:
    """Adds the autoencoder class `name` (or replaces it).

    Args:
        name: `type(vae).__name__`.
        build: takes the autoencoder and returns a function from the latents that the scheduler
            steps, (B, ...), to images (B, 3, H, W) in [0, 1], differentiable.

    Example:
        >>> register_decoder("MyVAE", lambda vae: lambda z: vae.decode(z) / 2 + 0.5)
    """
    DECODERS[name] = build


def find_decoder(pipe: Any, decoder: Any = None) -> tuple[Decode, nn.Module | None]:
    """The decode function of a call, and the module behind it (None for a plain function).

    Args:
        pipe: the pipeline.
        decoder: None for the pipeline's own autoencoder; an autoencoder (AutoencoderTiny) for the
            same latents; or any function of latents to images in [0, 1].

    Raises:
        NotImplementedError: an autoencoder without a row.
        TypeError: a decoder that is neither.
    """
    module = getattr(pipe, "vae", None) if decoder is None else decoder
    name = type(module).__name__
    if name in DECODERS:
        return DECODERS[name](module), module
    if decoder is not None and not hasattr(decoder, "decode"):
        if not callable(decoder):
            raise TypeError(
                f"got decoder {type(decoder).__name__}, expected an autoencoder or a function from "
                "latents to images in [0, 1]"
            )
        return cast(Decode, decoder), decoder if isinstance(decoder, nn.Module) else None
    raise NotImplementedError(
        f"{type(pipe).__name__} with autoencoder {name} has no decoder (known: "
        f"{', '.join(DECODERS)}); pass decoder= a function from latents to images in [0, 1], or "
        "add one with clipguide.register_decoder"
    )
