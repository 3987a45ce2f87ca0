"""A hash of the weights that make the images, wherever they were loaded from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

_PROVENANCE = ("transformers_version", "dtype", "torch_dtype")


class HasComponents(Protocol):
    """Any diffusers pipeline."""

    @property
    def components(self) -> dict[str, Any]: ...


def fingerprint(pipe: HasComponents) -> str:
    """SHA-256 over the pipeline's weights as loaded (dtype included), vocabularies and configs.

    The folder or hub name they came from does not matter; a changed weight does.
    Cost: one pass over the weights, about a second per gigabyte.
    """
    digest = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        digest.update(f"{name}:{type(component).__name__}\n".encode())
        if isinstance(component, nn.Module):
            for piece in _weights(component):
                digest.update(piece)
        elif hasattr(component, "get_vocab"):
            vocabulary = cast("dict[str, int]", component.get_vocab())
            digest.update(json.dumps(vocabulary, sort_keys=True).encode())
        digest.update(_config(component).encode())
    return digest.hexdigest()


def module_fingerprint(module: nn.Module) -> str:
    """SHA-256 over one module's weights as loaded."""
    digest = hashlib.sha256()
    for piece in _weights(module):
        digest.update(piece)
    return digest.hexdigest()


def _weights(module: nn.Module) -> Iterator[bytes]:
    for key, tensor in sorted(module.state_dict().items()):
        yield f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        data: Tensor = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield data.numpy().tobytes()


def _config(component: object) -> str:
    """A component's settings, less those that only say where it came from or who wrote it."""
    config: Any = getattr(component, "config", None)
    if hasattr(config, "to_diff_dict"):  # transformers: what differs from the architecture's own
        config = config.to_diff_dict()
    if not isinstance(config, dict):
        return ""
    settings = cast("dict[str, Any]", config)
    kept = {k: v for k, v in settings.items() if not k.startswith("_") and k not in _PROVENANCE}
    return json.dumps(kept, sort_keys=True, default=str)
