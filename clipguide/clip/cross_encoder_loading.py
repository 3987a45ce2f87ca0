"""A cross-encoder's folder and its weights, by the same rules as a CLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from clipguide.clip.hub import NO_CODE, model_folder
from clipguide.clip.model_size import check_size


def model_parts(name: str, source: str, *, kind: str | None = None) -> Path:
    """The folder of a transformers model (see `model_folder`).

    Raises:
        ValueError: no such model, or one of another `kind` (its config's model_type).
    """
    from transformers import AutoConfig

    if not source:
        raise ValueError(f"{name}: got no model after the colon, expected a folder or OWNER/NAME")
    folder = model_folder(name, source)
    config: Any = AutoConfig.from_pretrained(folder, **NO_CODE)
    if kind is not None and config.model_type != kind:
        raise ValueError(f"{name}: got a model of type {config.model_type!r}, expected {kind!r}")
    return folder


def load_module(name: str, folder: Path, kind: Any, dtype: torch.dtype) -> nn.Module:
    """The module that `kind` (an Auto class, or a model's own) makes of the folder's safetensors.

    Raises:
        ValueError: settings larger than the weights, or weights that do not fill the module.
    """
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(folder, **NO_CODE)
    build = getattr(kind, "from_config", kind)
    check_size(name, lambda: cast(nn.Module, build(config)), sorted(folder.glob("*.safetensors")))
    loaded: Any = kind.from_pretrained(
        folder, use_safetensors=True, output_loading_info=True, dtype=dtype, **NO_CODE
    )
    module, report = cast("tuple[nn.Module, Mapping[str, Any]]", loaded)
    if report["missing_keys"]:
        missing = ", ".join(sorted(map(str, report["missing_keys"]))[:3])
        raise ValueError(f"{name}: got weights without {missing} ..., expected all of the model's")
    return module
