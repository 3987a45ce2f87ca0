"""How pipelines lay out the latents that their schedulers step: packed, pixels, or as decoded.

A row per kind of packing, recognised by the pipeline's own unpacking method with exactly the
parameters that were verified. Every family of tests/families is compared with its pipeline's tail.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.unsupported import Unsupported

REGISTER = (
    "pass decoder= a function from latents to images in [0, 1], or add one with "
    "clipguide.register_decoder"
)

# pipelines whose samples are images of [-1, 1] (also subclasses)
PIXEL_SPACE = (
    "DDPMPipeline",
    "DDIMPipeline",
    "IFPipeline",
    "IFImg2ImgPipeline",
    "IFInpaintingPipeline",
    "IFSuperResolutionPipeline",
    "IFImg2ImgSuperResolutionPipeline",
    "IFInpaintingSuperResolutionPipeline",
)

# pipelines whose autoencoder decodes a picture and, in further channels, its depth
WITH_DEPTH = ("StableDiffusionLDM3DPipeline",)

# pipelines that give the denoiser the very tensor that the step takes, and prepare it inline
DIRECT = ("DDPMPipeline", "DDIMPipeline")

# pipelines that begin from latents which they are given, though they have `prepare_latents`
GIVEN_START = ("StableDiffusionDiffEditPipeline",)

# methods that make a call's first sample
PREPARE = ("prepare_latents", "prepare_intermediate_images")

_EMBEDDING = "it makes an embedding, not a picture; guide the pipeline that is given the embedding"
_MAP = "its latents are those of a map of its picture (depth, normals, materials), not of a picture"
_SHAPE = "its latents are those of a shape, of which renderings come at the end"

# pipelines that guidance refuses, and why
REFUSED = {
    "FluxPriorReduxPipeline": _EMBEDDING,
    "KandinskyPriorPipeline": _EMBEDDING,
    "KandinskyV22PriorPipeline": _EMBEDDING,
    "KandinskyV22PriorEmb2EmbPipeline": _EMBEDDING,
    "StableCascadePriorPipeline": _EMBEDDING,
    "WuerstchenPriorPipeline": _EMBEDDING,
    "MarigoldDepthPipeline": _MAP,
    "MarigoldIntrinsicsPipeline": _MAP,
    "MarigoldNormalsPipeline": _MAP,
    "ShapEPipeline": _SHAPE,
    "ShapEImg2ImgPipeline": _SHAPE,
    "StableDiffusionParadigmsPipeline": "it makes many steps at once, by a method of its "
    "scheduler's that is not `step`; guide StableDiffusionPipeline",
    "UnCLIPPipeline": "it samples three times, with schedulers for the prior, the 64 px decoder "
    "and super-resolution, and no x0 of the decoder is the picture it returns; guide "
    "StableUnCLIPPipeline, or a pipeline of your own around one of its stages (with "
    "clipguide.register_decoder for its latents)",
}


@dataclass
class Prepared:
    """What a call's `prepare_latents` was given, by name, and what it returned beside latents."""

    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    beside: tuple[Any, ...] = ()


def named(pipe: Any, names: Iterable[str]) -> str | None:
    """Which of these names the pipeline's class has, or one it inherits from; None: none."""
    known = {*names}
    return next((cls.__name__ for cls in type(pipe).__mro__ if cls.__name__ in known), None)


def is_a(pipe: Any, names: Iterable[str]) -> bool:
    """Whether the pipeline's class, or one it inherits from, has one of these names."""
    return named(pipe, names) is not None


def refuse(pipe: Any) -> None:
    """Raises for a pipeline that guidance refuses.

    Raises:
        NotImplementedError: with the reason.
    """
    name = named(pipe, REFUSED)
    if name is not None:
        raise Unsupported(f"{type(pipe).__name__} cannot be guided: {REFUSED[name]}")


def sampling_pipeline(pipe: Any) -> Any:
    """The pipeline whose loop makes the picture: itself, or of a prior and a decoder in one (the
    Combined pipelines of Kandinsky, Stable Cascade, Wuerstchen) the decoder, with the scheduler
    that is used, whatever the outer one is given later."""
    return getattr(pipe, "decoder_pipe", pipe)


def scheduler_of(pipe: Any) -> Any:
    """The scheduler of the loop that makes the picture.

    Raises:
        ValueError: the pipeline has none.
    """
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is None:
        raise ValueError(f"got {type(pipe).__name__}, expected a pipeline with a scheduler")
    return scheduler


def prepare_method(pipe: Any) -> str | None:
    """Name of the method that makes a call's first sample; None where it is made inline."""
    return next((name for name in PREPARE if hasattr(pipe, name)), None)


Unpack = Callable[[Any, Prepared, Tensor], Tensor]
"""(pipeline, its call, packed latents (B, L, C)) -> latents as the autoencoder decodes them."""


def _by_size(pipe: Any, prepared: Prepared, latents: Tensor) -> Tensor:
    """Flux, Chroma: (B, C, h, w); Qwen-Image: (B, C, 1, h, w)."""
    height, width = (prepared.arguments.get(side) for side in ("height", "width"))
    if height is None or width is None:
        raise RuntimeError(
            f"got packed latents of {type(pipe).__name__} before its prepare_latents told height "
            "and width; sample with the pipeline itself"
        )
    return pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)


# pipelines that scatter their latents by position ids -> which of what `prepare_latents` returns
# after the latents these are
_IDS = {
    "Flux2Pipeline": 0,
    "Flux2KleinPipeline": 0,
    "Flux2KleinKVPipeline": 0,
    "Flux2KleinInpaintPipeline": 3,  # after the noise and twice the picture
}


def _by_ids(pipe: Any, prepared: Prepared, latents: Tensor) -> Tensor:
    """Flux 2: scattered to where the position ids say, (B, 4C, h/2, w/2)."""
    name = named(pipe, _IDS)
    if name is None:
        raise Unsupported(
            f"{type(pipe).__name__} unpacks its latents by position ids, and where it keeps them "
            f"is not verified; {REGISTER}"
        )
    if not prepared.beside:
        raise RuntimeError(
            f"got packed latents of {type(pipe).__name__} before its prepare_latents told their "
            "position ids; sample with the pipeline itself"
        )
    return pipe._unpack_latents_with_ids(latents, prepared.beside[_IDS[name]])


# (method, its parameters) -> rule
PACKED: dict[tuple[str, tuple[str, ...]], Unpack] = {
    ("_unpack_latents", ("latents", "height", "width", "vae_scale_factor")): _by_size,
    ("_unpack_latents_with_ids", ("x", "x_ids")): _by_ids,
    ("_unpack_latents_with_ids", ("x", "x_ids", "height", "width")): _by_ids,
}


def unpacked(pipe: Any, prepared: Prepared, latents: Tensor) -> Tensor:
    """What the scheduler steps as what the autoencoder decodes, before its scaling.

    Args:
        pipe: the pipeline.
        prepared: its present call.
        latents: (B, L, C) are packed; anything else is returned as it is.

    Raises:
        NotImplementedError: packed latents of a pipeline whose unpacking is not known.
        RuntimeError: packed latents of a loop that never called `prepare_latents`.
    """
    if latents.ndim != 3:
        return latents
    for (name, parameters), rule in PACKED.items():
        method = getattr(pipe, name, None)
        if method is not None and (*inspect.signature(method).parameters,) == parameters:
            return rule(pipe, prepared, latents)
    raise Unsupported(
        f"{type(pipe).__name__} steps packed latents of shape {tuple(latents.shape)} and has no "
        f"verified unpacking; {REGISTER}"
    )


def on_grid(pipe: Any, prepared: Prepared, latents: Tensor) -> Tensor:
    """What the scheduler steps as (B, C, h, w): unpacked, a frame axis of length 1 left out.

    Raises: as `unpacked`; NotImplementedError also for several frames, or no grid.
    """
    z = unpacked(pipe, prepared, latents)
    z = z[:, :, 0] if z.ndim == 5 and z.shape[2] == 1 else z
    if z.ndim != 4:
        raise Unsupported(
            f"{type(pipe).__name__} steps latents of shape {tuple(latents.shape)}, expected those "
            "of one image, (B, C, h, w) when they are unpacked"
        )
    return z


def reduced(latents: Tensor, side: int) -> Tensor:
    """Latents (B, C, h, w) or (B, C, 1, h, w) resized so that their shorter side is `side`.

    Antialiased bilinear, differentiable; latents that are no larger are returned as they are.
    """
    height, width = latents.shape[-2:]
    shorter = min(height, width)
    if shorter <= side:
        return latents
    size = [round(height * side / shorter), round(width * side / shorter)]
    flat = latents.reshape(latents.shape[0], -1, height, width)
    small = torch.nn.functional.interpolate(
        flat, size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return small.reshape(*latents.shape[:-2], *size)
