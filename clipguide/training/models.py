"""From the configuration to the model that is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clipguide.clip.dual_encoder import DualEncoder, load_encoder, new_encoder
from clipguide.clip.dual_encoder_files import CONFIG
from clipguide.clip.trainable import TrainableClip
from clipguide.clip.trainable_open_clip import (
    load_trainable_open_clip,
    load_trainable_open_clip_folder,
)
from clipguide.clip.trainable_transformers import load_trainable_transformers
from clipguide.seeds import derive_generator
from clipguide.training.config import ModelSettings, TrainConfig

Start = Callable[[str, str, bool], TrainableClip]  # (name, what follows the scheme, new weights)


def _encoder(name: str, folder: str, scratch: bool) -> TrainableClip:
    return new_encoder(name, folder) if scratch else load_encoder(name, folder)


SCHEMES: dict[str, Start] = {
    "open_clip": load_trainable_open_clip,
    "hf": load_trainable_transformers,
}
"""What stands before the colon of `model.start` -> how it is loaded."""

FOLDERS: dict[str, Start] = {
    CONFIG: _encoder,
    "config.json": load_trainable_transformers,
    "open_clip_config.json": load_trainable_open_clip_folder,
}
"""The file that marks a kind of saved model -> how its folder is loaded."""

_OF_ENCODER = ("embed_dim", "head", "dropout", "text_pooling", "image_pooling", "context_length")
_OF_START = (*_OF_ENCODER, "image_size", "logit_scale")


def model_of(config: TrainConfig) -> TrainableClip:
    """The model to train; what of it is new is drawn from the run's seed.

    Raises:
        ValueError: no model or two, or one that cannot be loaded.
    """
    given = config.model
    if bool(given.start) == bool(given.text and given.image):
        raise ValueError("got a model without both model.text and model.image, or else model.start")
    unused = [name for name in _OF_START if getattr(given, name) != getattr(ModelSettings(), name)]
    if given.start and unused:
        raise ValueError(
            f"got model.{unused[0]} with model.start, expected none: a whole model has its own"
        )
    source = derive_generator(torch.Generator().manual_seed(config.train.seed), "weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.initial_seed())
        model = _started(given.start, given.scratch) if given.start else _joined(config)
    if isinstance(model, DualEncoder):
        model.config = replace(model.config, loss=config.train.loss)
    return model


def _started(name: str, scratch: bool) -> TrainableClip:
    scheme, colon, rest = name.partition(":")
    if colon and scheme in SCHEMES:
        return SCHEMES[scheme](name, rest, scratch)
    folder = Path(name).expanduser()
    for marker, load in FOLDERS.items():
        if (folder / marker).is_file():
            return load(name, str(folder), scratch)
    choices = "hf:REPOSITORY, open_clip:ARCH/TAG, or a folder with one of"
    raise ValueError(f"got model.start {name!r}, expected {choices} {[*FOLDERS]}")


def _joined(config: TrainConfig) -> TrainableClip:
    """New heads on two backbones."""
    given = config.model
    settings: dict[str, Any] = {name: getattr(given, name) for name in _OF_ENCODER}
    # where the sigmoid loss starts: section 3.2 of https://arxiv.org/abs/2303.15343
    settings["logit_scale"] = 10.0 if config.train.loss == "sigmoid" else given.logit_scale
    return DualEncoder.from_backbones(
        given.text, given.image, image_size=given.image_size, **settings
    )
