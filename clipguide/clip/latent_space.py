"""Which autoencoder's latents: a hash of its weights that holds in every precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from clipguide.clip.weights import hash_weights

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""Name -> type that pipelines are loaded in."""


def hash_autoencoder(autoencoder: nn.Module, precision: str = "float32") -> str:
    """SHA-256 over names, shapes and values of all weights, rounded to `precision`.

    Args:
        autoencoder: encoder and decoder, as diffusers loads it.
        precision: one of `PRECISIONS`. Weights that are float16 in their file have one float32 hash
            whether they are loaded as float32 or as float16.

    Raises:
        ValueError: a precision that is not known.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"got precision {precision!r}, expected one of {[*PRECISIONS]}")
    return hash_weights(autoencoder, rounded=PRECISIONS[precision])


def hashes_of(autoencoder: nn.Module) -> dict[str, str]:
    """`hash_autoencoder` in every precision, for a configuration."""
    return {name: hash_autoencoder(autoencoder, name) for name in PRECISIONS}


def is_of(autoencoder: nn.Module, hashes: Mapping[str, str]) -> bool:
    """Whether `hashes` (of `hashes_of`) are those of this autoencoder, whatever it is loaded in.

    Half precision loses bits, so a pipeline in bfloat16 is compared with the weights rounded alike.
    **Cost**: one hash of the weights where they are the same; three where they are not.
    """
    own = next(autoencoder.parameters()).dtype
    names = sorted(PRECISIONS, key=lambda name: PRECISIONS[name] != own)
    return any(
        hash_autoencoder(autoencoder, name) == hashes[name] for name in names if name in hashes
    )
