"""Tiny autoencoders for previews by name, and the one that fits a pipeline's latents.

The TAESD family (Bohan 2023, https://github.com/madebyollin/taesd): distilled decoders for the
latents of Stable Diffusion, SDXL, SD3 and Flux. A guided step with one costs a fraction.
"""

from __future__ import annotations

import math
import os
from typing import Any

from clipguide.attach.decoders import autoencoder
from clipguide.attach.loading import load_decoder

# (channels, scaling factor) of an AutoencoderKL -> the tiny autoencoder of its latents
TINY: dict[tuple[int, float], str] = {
    (4, 0.18215): "madebyollin/taesd",
    (4, 0.13025): "madebyollin/taesdxl",
    (16, 1.5305): "madebyollin/taesd3",
    (16, 0.3611): "madebyollin/taef1",
}


def tiny_name(pipe: Any) -> str:
    """Hub id of the tiny autoencoder for a pipeline's latents, by their channels and scale.

    Raises:
        ValueError: none is known for these latents.

    Example:
        >>> tiny_name(pipe)  # a Stable Diffusion
        'madebyollin/taesd'
    """
    vae = autoencoder(pipe)
    if type(vae).__name__ == "AutoencoderKL":
        channels, scale = int(vae.config.latent_channels), float(vae.config.scaling_factor)
        for (known, factor), name in TINY.items():
            if channels == known and math.isclose(scale, factor, rel_tol=1e-4):
                return name
        got = f"latents of {channels} channels scaled by {scale}"
    else:
        got = f"autoencoder {type(vae).__name__}"
    known = ", ".join(f"{name} ({c} channels, {s})" for (c, s), name in TINY.items())
    raise ValueError(
        f"got decoder='auto' for {type(pipe).__name__} with {got}, expected latents of {known}; "
        "pass an autoencoder or a function"
    )


def cached_tiny(pipe: Any) -> tuple[str, str]:
    """(hub id, local folder) of the tiny autoencoder for `pipe`, from the hub's cache alone.

    Raises:
        ValueError: none is known for these latents, or it is not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = tiny_name(pipe)
    try:
        folder = snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"got decoder='auto', but {name} is not in the hub's cache and nothing is downloaded "
            f"unasked; pass decoder={name!r} (or `hf download {name}` once), or a local folder"
        ) from error
    return name, folder


def named_decoder(pipe: Any, decoder: Any) -> tuple[Any, str]:
    """What `decoder=` stands for, and a name for the trace.

    Args:
        pipe: the pipeline; a decoder found by name is put on its device, in the precision of its
            autoencoder.
        decoder: "auto"; a name that `load_decoder` takes; anything else is returned as it is.

    Raises:
        ValueError: a name that cannot be loaded; nothing in the cache for "auto".
    """
    if decoder is None:
        return None, _own_name(pipe)
    if not isinstance(decoder, str | os.PathLike):
        return decoder, type(decoder).__name__
    vae: Any = autoencoder(pipe)
    name, source = cached_tiny(pipe) if decoder == "auto" else (str(decoder), decoder)
    placed = {} if vae is None else {"dtype": vae.dtype}
    return load_decoder(source, device=pipe._execution_device, **placed), name


def _own_name(pipe: Any) -> str:
    vae = autoencoder(pipe)
    return "pixels" if vae is None else type(vae).__name__
