"""The hash of a module's weights: the same weights, whatever file they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

HEADER = "{name} {shape} {dtype}\0"
"""Before the bytes of each weight in the hash of a CLIP, as indexes and feature caches hold it."""
PIPELINE_HEADER = "{name} {dtype} {shape}\n"
"""The same for the parts of a pipeline, as the records of pictures hold it. That the two differ has
no reason of its own, but every index and every picture on disk was written with them."""

COMPILED = "_orig_mod."
"""What `torch.compile` puts before the names of the weights of a module that it wraps."""


def weight_bytes(
    module: nn.Module, header: str = HEADER, rounded: torch.dtype | None = None
) -> Iterator[bytes | memoryview]:
    """Name, shape, type and bytes of each weight of a module, in the names' order; floating-point
    ones `rounded` to a type, where one is given."""
    for name, given in sorted(_state(module).items()):
        weight = given.to(rounded) if rounded and given.is_floating_point() else given
        shape, dtype = tuple(weight.shape), weight.dtype
        yield header.format(name=name, shape=shape, dtype=dtype).encode()
        flat = weight.detach().cpu().contiguous().reshape(-1)
        yield memoryview(flat.view(torch.uint8).numpy())


def _state(module: nn.Module) -> dict[str, Any]:
    """The state of a module, whether it is compiled, or its weights are offloaded."""
    state: dict[str, Any] = module.state_dict()
    if any(weight.is_meta for weight in state.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        state = get_state_dict_offloaded_model(module)
    return {name.replace(COMPILED, ""): weight for name, weight in state.items()}


def hash_weights(
    module: nn.Module, header: str = HEADER, rounded: torch.dtype | None = None
) -> str:
    """SHA-256 over names, shapes, types and bytes of a module's state, 64 hexadecimal digits; see
    `weight_bytes`.

    Cost: one pass over the weights, about a second per gigabyte.
    """
    digest = hashlib.sha256()
    for piece in weight_bytes(module, header, rounded):
        digest.update(piece)
    return digest.hexdigest()
