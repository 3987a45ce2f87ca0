"""Pipelines by name, for the command line: the starter, a folder, or a model of the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipguide.attach.starter import load_starter

if TYPE_CHECKING:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

ACCEPTED = "'starter', a folder with model_index.json, or a hub id OWNER/NAME"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_pipeline(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DiffusionPipeline:
    """A diffusers pipeline from safetensors weights; no pickle and no remote code.

    Args:
        name: "starter", a folder with a model_index.json, or a hub id "OWNER/NAME" (downloaded
            unless it is in the cache).
        device, dtype: where and in which precision.

    Raises:
        ValueError: a name that is none of these, or a model that cannot be loaded: one line that
            says why.

    Example:
        >>> pipe = load_pipeline("stabilityai/sd-turbo", dtype=torch.float16, device="cuda")
    """
    if str(name) == "starter":
        return load_starter(device, dtype)
    folder = Path(name)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(f"got {folder}, which has no model_index.json; expected {ACCEPTED}")
    if not folder.is_dir() and not _HUB_ID.fullmatch(str(name)):
        raise ValueError(f"got pipeline {str(name)!r}, expected {ACCEPTED}")
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    try:
        pipe: Any = DiffusionPipeline.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError) as error:  # missing, offline, gated, no safetensors
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot load pipeline {str(name)!r}: {reason}") from error
    return pipe.to(device)
