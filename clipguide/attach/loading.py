"""Pipelines by name, for the command line: the starter, a folder, or a model of the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipguide.attach.pipeline_folder import check_pipeline
from clipguide.attach.starter import load_starter, load_starter_decoder
from clipguide.clip.hub import fetch
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.model_folder import check_folder
from clipguide.clip.refusals import refusing

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

Name = str | os.PathLike[str]
ACCEPTED = "'starter', a folder with model_index.json, or a hub id OWNER/NAME"
_AUTOENCODER = ("config.json", "diffusion_pytorch_model*.safetensors*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@ordinary_tensors()
def load_pipeline(
    name: Name, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
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
        >>> pipe = load_pipeline("stabilityai/sd-turbo", dtype=torch.float16)
    """
    if str(name) == "starter":
        return load_starter(device, dtype)
    folder = Path(name)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        raise ValueError(f"got {folder}, which has no model_index.json; expected {ACCEPTED}")
    if not folder.is_dir() and not _HUB_ID.fullmatch(str(name)):
        raise ValueError(f"got pipeline {str(name)!r}, expected {ACCEPTED}")
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    with refusing(str(name)):
        if not folder.is_dir():
            folder = Path(DiffusionPipeline.download(str(name), use_safetensors=True))
        check_pipeline(str(name), folder)
        pipe: Any = DiffusionPipeline.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    return pipe.to(device)


@ordinary_tensors()
def load_decoder(
    name: Name, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderTiny:
    """A tiny autoencoder for previews, from safetensors weights.

    Args:
        name: "starter", a folder with an AutoencoderTiny, or a hub id ("madebyollin/taesd").
        device, dtype: where and in which precision.

    Raises:
        ValueError: a name that is none of these, or a model that cannot be loaded: one line that
            says why.

    Example:
        >>> decoder = load_decoder("madebyollin/taesd")
    """
    if str(name) == "starter":
        return load_starter_decoder(device, dtype)
    if not Path(name).is_dir() and not _HUB_ID.fullmatch(str(name)):
        raise ValueError(
            f"got decoder {str(name)!r}, expected 'starter', a folder with an AutoencoderTiny, or "
            "a hub id OWNER/NAME"
        )
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    folder = Path(name)
    with refusing(str(name)):
        if not folder.is_dir():
            folder = fetch(str(name), str(name), _AUTOENCODER)
        check_folder(str(name), folder)
        decoder: Any = AutoencoderTiny.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    return decoder.to(device).eval()
