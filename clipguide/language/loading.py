"""From a name to a captioner: `load_captioner`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipguide.clip.cross_encoder_loading import load_module, model_parts
from clipguide.clip.finite import check_weights_finite
from clipguide.clip.hub import NO_CODE
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.loading import ASSETS
from clipguide.clip.refusals import refusing
from clipguide.language.captioner import Captioner
from clipguide.language.captioner_files import CONFIG, load_captioner_folder
from clipguide.language.library_captioner import (
    BlipCaptioner,
    EncoderDecoderCaptioner,
    GitCaptioner,
    LibraryCaptioner,
    TalkingCaptioner,
)

SCHEME = "hf:"
BUNDLED = {"starter": ASSETS / "captioner"}
"""Name -> folder of the captioners that come with the package."""
CHOICES = f"starter, {SCHEME}REPOSITORY_OR_FOLDER or a folder with {CONFIG} or config.json"

_Pixels = Callable[[str, nn.Module, Any, Any], LibraryCaptioner]
FAMILIES: dict[str, _Pixels] = {
    "blip": BlipCaptioner,
    "git": GitCaptioner,
    "vision-encoder-decoder": EncoderDecoderCaptioner,
}
"""`model_type` of transformers -> its captioner; any other image-text-to-text model is asked
through its chat template."""


@ordinary_tensors()
def load_captioner(
    name: str | Path | Captioner, *, device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Captioner:  # fmt: skip
    """Load a captioner by name. Weights come from safetensors only, no code is run.

    Args:
        name: "starter", which knows the starter's scenes; "hf:" and a Hub repository or a folder
            with BLIP, GIT, a vision-encoder-decoder or an image-text-to-text model of transformers;
            a folder with one of these, or with what `clipguide train` made of a table
            `[captioner]`. A `Captioner` is moved and returned.
        device: where the model shall be.
        dtype: of the weights of a transformers model.

    Raises:
        ValueError: an unknown name, a model that cannot be loaded, or writes nothing.

    Example:
        >>> load_captioner("hf:Salesforce/blip-image-captioning-base").name
        'hf:Salesforce/blip-image-captioning-base'
    """
    captioner = name if isinstance(name, Captioner) else _load(str(name), dtype)
    captioner.module.to(device)
    return captioner


def _load(name: str, dtype: torch.dtype) -> Captioner:
    folder = BUNDLED.get(name, Path(name.removeprefix(SCHEME)).expanduser())
    if (folder / CONFIG).is_file():
        captioner: Captioner = load_captioner_folder(name, folder)
    elif name.startswith(SCHEME) or (folder / "config.json").is_file():
        with refusing(name):
            captioner = _of_library(name, name.removeprefix(SCHEME), dtype)
    else:
        raise ValueError(f"got captioner {name!r}, expected {CHOICES}")
    check_weights_finite(name, captioner.module)
    return captioner


def _of_library(name: str, source: str, dtype: torch.dtype) -> Captioner:
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
    )

    folder = model_parts(name, source)
    kind = str(AutoConfig.from_pretrained(folder, **NO_CODE).model_type)
    module = load_module(name, folder, AutoModelForImageTextToText, dtype)
    if kind in FAMILIES:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
        image_processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
        return FAMILIES[kind](name, module, tokenizer, image_processor)
    processor: Any = AutoProcessor.from_pretrained(folder, **NO_CODE)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"{name}: got a {kind} without a chat template, expected one")
    return TalkingCaptioner(name, module, processor)
