"""The hash of a pipeline: all that makes the images, wherever it was loaded from."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol, cast

from torch import nn

from clipguide.clip.weights import PIPELINE_HEADER, weight_bytes

_PROVENANCE = ("transformers_version", "dtype", "torch_dtype")


class HasComponents(Protocol):
    """Any diffusers pipeline."""

    @property
    def components(self) -> dict[str, Any]: ...


def hash_pipeline(pipe: HasComponents) -> str:
    """SHA-256 over the pipeline's weights as loaded (dtype included), vocabularies and configs.

    The folder or hub name they came from does not matter; a changed weight does.
    Cost: one pass over the weights, about a second per gigabyte.
    """
    digest = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        digest.update(f"{name}:{type(component).__name__}\n".encode())
        if isinstance(component, nn.Module):
            for piece in weight_bytes(component, PIPELINE_HEADER):
                digest.update(piece)
        elif hasattr(component, "get_vocab"):
            vocabulary = cast("dict[str, int]", component.get_vocab())
            digest.update(json.dumps(vocabulary, sort_keys=True).encode())
        digest.update(_config(component).encode())
    return digest.hexdigest()


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
