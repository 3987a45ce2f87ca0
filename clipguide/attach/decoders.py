"""From latents to the images a reward sees: one row per kind of autoencoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.attach.layouts import (
    PIXEL_SPACE,
    REGISTER,
    WITH_DEPTH,
    Prepared,
    is_a,
    reduced,
    refuse,
    unpacked,
)
from clipguide.attach.preserve import diffusers_hooks, original
from clipguide.attach.unsupported import Unsupported
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.guidance.gradient import Decode
from clipguide.guidance.inward_clamp import inward_clamp
from clipguide.guidance.parameterization import at_least_float

Build = Callable[[Any], Decode]
"""An autoencoder module -> its decode function."""


Unscale = Callable[[Any, Tensor], Tensor]
"""(autoencoder, latents as the scheduler steps them) -> latents as it decodes them."""


def _by_factor(vae: Any, z: Tensor) -> Tensor:
    """One factor and one shift, or the mean and deviation of each channel (SDXL fine-tunes)."""
    config, scale = vae.config, float(vae.config.scaling_factor)
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return z * _per_channel(config.latents_std, z) / scale + _per_channel(
            config.latents_mean, z
        )
    return z / scale + float(config.get("shift_factor") or 0.0)


def _by_channel(vae: Any, z: Tensor) -> Tensor:
    """The mean and deviation of each channel."""
    return z * _per_channel(vae.config.latents_std, z) + _per_channel(vae.config.latents_mean, z)


def _by_batch_norm(vae: Any, z: Tensor) -> Tensor:
    """Flux 2: patches of 2 x 2 as channels, each with its running mean and variance."""
    variance = vae.bn.running_var + vae.config.batch_norm_eps
    z = z * _per_channel(variance.sqrt(), z) + _per_channel(vae.bn.running_mean, z)
    return torch.nn.functional.pixel_shuffle(z, 2)  # (B, 4C, h, w) -> (B, C, 2h, 2w)


def _by_one_factor(vae: Any, z: Tensor) -> Tensor:
    """Stable Cascade: a factor on the latents that are decoded."""
    return z * float(vae.config.scale_factor)


def _as_it_is(vae: Any, z: Tensor) -> Tensor:
    return z


def _per_channel(values: Any, z: Tensor) -> Tensor:
    """(C,) values to multiply (B, C, ...) by."""
    return torch.as_tensor(values).to(z).view(1, -1, *[1] * (z.ndim - 2))


@dataclass(frozen=True)
class Row:
    """How a class of autoencoders decodes, calling it builds the decode function of one of them.

    Attributes:
        unscale: from the latents that schedulers step.
        channels: how many channels those have, by the autoencoder's config.
        frames: whether they have a frame axis, of length 1.
        options: further arguments of its `decode`.
        signed: whether the images are in [-1, 1], not [0, 1].
    """

    unscale: Unscale
    channels: Callable[[Any], int] = lambda config: int(config.latent_channels)
    frames: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    signed: bool = True

    def __call__(self, vae: Any) -> Decode:
        """(B, C, h, w) or (B, C, 1, h, w) to images (B, 3, H, W) in [0, 1]."""

        def decode(latents: Tensor) -> Tensor:
            self._check(vae, latents)
            # any context in mode xt, of this pipeline or of one that shares its autoencoder, has
            # put a decode without gradient there
            plain_decode: Callable[..., Any] = original(vae, "decode")
            z = self.unscale(vae, latents).to(vae.dtype)
            images: Tensor = plain_decode(z, return_dict=False, **self.options)[0]
            images = images[:, :, 0] if self.frames else images
            images = at_least_float(images)
            return inward_clamp(images / 2 + 0.5 if self.signed else images)

        return decode

    def _check(self, vae: Any, latents: Tensor) -> None:
        channels = self.channels(vae.config)
        shape = (latents.shape[0], channels, *[1] * self.frames, *latents.shape[-2:])
        if latents.shape != shape:
            raise Unsupported(
                f"latents of shape {tuple(latents.shape)} are not the (B, {channels}, "
                f"{'1, ' * self.frames}h, w) that {type(vae).__name__} decodes; {REGISTER}"
            )


# class name of the autoencoder -> builder
DECODERS: dict[str, Build] = {
    "AutoencoderKL": Row(_by_factor),
    "AutoencoderTiny": Row(_by_factor),
    "AutoencoderDC": Row(_by_factor),
    "AutoencoderKLQwenImage": Row(_by_channel, lambda config: int(config.z_dim), frames=True),
    "AutoencoderKLFlux2": Row(_by_batch_norm, lambda config: 4 * int(config.latent_channels)),
    "PaellaVQModel": Row(_by_one_factor, signed=False),
    "VQModel": Row(_as_it_is, options={"force_not_quantize": True}),
}

# components of pipelines that decode their latents
AUTOENCODERS = ("vae", "movq", "vqgan")


def autoencoder(pipe: Any) -> Any:
    """The pipeline's autoencoder, None where it has none."""
    return next((vae for name in AUTOENCODERS if (vae := getattr(pipe, name, None))), None)


def _pixels(images: Tensor) -> Tensor:
    """Pixel space: (B, 3, H, W) of [-1, 1] as it is."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise Unsupported(
            f"pixels of shape {tuple(images.shape)} are not (B, 3, H, W) images; {REGISTER}"
        )
    return inward_clamp(images / 2 + 0.5)


def needs_upcast(vae: Any) -> bool:
    """Whether an autoencoder overflows in its present dtype by its own config."""
    return vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))


@contextmanager
def upcast(module: nn.Module | None) -> Generator[None]:
    """A float16 autoencoder that needs it is float32 inside, and float16 again after.

    The cast up is exact and the cast down returns the same bits; the weights stay up through the
    backward pass. Weights of another precision stay as they are, and what is cast layer by layer is
    computed in float32.
    """
    if module is None or not needs_upcast(module):
        yield
        return
    weights = (*module.parameters(), *module.buffers())
    half = [weight for weight in weights if weight.dtype == torch.float16]
    hooks = diffusers_hooks(module, "layerwise_casting")
    computed = [hook for hook in hooks if hook.compute_dtype == torch.float16]
    try:
        _set_precision(half, computed, torch.float32)
        yield
    finally:
        _set_precision(half, computed, torch.float16)


def _set_precision(weights: list[Tensor], hooks: list[Any], dtype: torch.dtype) -> None:
    with ordinary_tensors():  # weights made in inference mode could not be guided with after it
        for weight in weights:  # not by `module.to`, of which diffusers warns every time
            weight.data = weight.data.to(dtype)
    for hook in hooks:
        hook.compute_dtype = dtype


def register_decoder(name: str, build: Build) -> None:
    """Adds the autoencoder class `name` (or replaces it).

    Args:
        name: `type(vae).__name__`.
        build: takes the autoencoder and returns a function from the latents that the scheduler
            steps, (B, ...), unpacked, to images (B, 3, H, W) in [0, 1], differentiable.

    Example:
        >>> register_decoder("MyVAE", lambda vae: lambda z: vae.decode(z) / 2 + 0.5)
    """
    DECODERS[name] = build


def find_decoder(
    pipe: Any, decoder: Any = None, prepared: Prepared | None = None, size: int | None = None
) -> tuple[Decode, nn.Module | None]:
    """The decode function of a call, and the module behind it (None for a plain function).

    Args:
        pipe: the pipeline.
        decoder: None for the pipeline's own autoencoder; an autoencoder (AutoencoderTiny) for the
            same latents; or any function of latents, unpacked, to images in [0, 1].
        prepared: the pipeline's call, for the geometry of packed latents.
        size: decode to images whose shorter side is about this many pixels; None for all of them.

    Raises:
        NotImplementedError: an autoencoder without a row, a pipeline that cannot be right.
        TypeError: a decoder that is neither.
    """
    refuse(pipe)
    decode, module = _plain_decoder(pipe, decoder)
    side = None if size is None else _latent_side(pipe, module, size)

    def decode_call(latents: Tensor) -> Tensor:
        z = unpacked(pipe, prepared or Prepared(), latents)
        images = decode(z if side is None else reduced(z, side))
        return _picture(pipe, module, images) if type(module).__name__ in DECODERS else images

    return decode_call, module


def _picture(pipe: Any, module: Any, images: Tensor) -> Tensor:
    """The picture in what an autoencoder decodes, (B, 3, H, W).

    Raises:
        NotImplementedError: another number of channels, of which nothing is known.
    """
    if is_a(pipe, WITH_DEPTH):
        images = images[:, :3]
    if images.shape[1] != 3:
        raise Unsupported(
            f"the {type(module).__name__} of {type(pipe).__name__} decodes {images.shape[1]} "
            f"channels, expected a picture of 3; {REGISTER}"
        )
    return images


def _latent_side(pipe: Any, module: nn.Module | None, size: int) -> int:
    """How many latents are `size` pixels."""
    if size < 1:
        raise ValueError(f"got decode_size {size}, expected a number of pixels, 1 or more")
    names = ("movq_scale_factor", "vae_scale_factor")
    pixels = next((int(getattr(pipe, name)) for name in names if hasattr(pipe, name)), 1)
    if type(module).__name__ == "PaellaVQModel":  # whose pipelines do not say it
        config: Any = getattr(module, "config")  # noqa: B009  of no type that torch knows
        pixels = config.up_down_scale_factor * 2 ** (config.levels - 1)
    if type(module).__name__ == "AutoencoderKLFlux2":  # one latent is a patch of 2 x 2
        pixels *= 2
    return max(1, math.ceil(size / pixels))


def _plain_decoder(pipe: Any, decoder: Any) -> tuple[Decode, nn.Module | None]:
    """The decode function of unpacked latents, and its module."""
    if decoder is None and is_a(pipe, PIXEL_SPACE):
        return _pixels, None
    module = autoencoder(pipe) if decoder is None else decoder
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
    own = "no autoencoder of a known name" if module is None else f"autoencoder {name}"
    raise Unsupported(
        f"{type(pipe).__name__} with {own} has no decoder (known: "
        f"{', '.join(DECODERS)}); {REGISTER}"
    )
