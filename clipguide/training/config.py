"""The configuration of a training run: a TOML or YAML file, and changes of the form a.b=c."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from clipguide.clip.encoder_settings import EncoderSettings
from clipguide.training.objectives import LOSSES
from clipguide.training.optimizer_settings import TrainTable
from clipguide.training.ranges import (
    BELOW_ONE,
    FACTOR,
    SHARE,
    Range,
    check_ranges,
)
from clipguide.training.run_config import RunConfig, read_run_config

PREFIX_TYPES = ("", "float32", "float16")
"""What `TrainSettings.prefix_cache` may be."""
_MODEL_RANGES = {
    "embed_dim": Range(1),
    "dropout": BELOW_ONE,
    "context_length": Range(3),
    "logit_scale": Range(0, 100, open_low=True),
}


@dataclass(frozen=True)
class ModelSettings(EncoderSettings):
    """The encoder: its backbones (hub names or folders), and what joins them.

    `start` is a whole model in their place: a folder of a dual encoder, a transformers `CLIPModel`
    or an open_clip model, "hf:REPOSITORY", or "open_clip:ARCH/TAG". With `scratch` it gives its
    architecture, tokenizer and preprocessing alone, and "open_clip:ARCH" is enough. All of
    `EncoderSettings` are then its own.

    `image_size` is the side of what the image encoder sees: the shorter side of an image becomes as
    long, and the middle is kept. 0 is the image encoder's own preprocessing.
    """

    text: str = ""
    image: str = ""
    start: str = ""
    scratch: bool = False
    image_size: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, _MODEL_RANGES, "model.")


@dataclass(frozen=True)
class TrainSettings(TrainTable):
    """How it is trained. An epoch takes every image once, with captions drawn among its own.

    Attributes:
        loss: one of `clipguide.training.objectives.LOSSES`.
        epochs, batch: passes over the images; images per step (0: all of them).
        captions_per_image: captions drawn for each image; they are positives of each other.
        hard_negatives: wrong captions made of each right one (`clipguide.data.hard_negatives`).
        views: cached looks at each image; 1 is the image alone (`random_view`).
        unfreeze_text, unfreeze_image: last blocks of a backbone that train; 0 none, -1 all.
        prefix_cache: "float32" or "float16": what the frozen blocks before `unfreeze_*` return is
            computed once, kept as that, and only the blocks that train are run from it; "" runs
            the whole backbone. Needs the memory of those states, for every view.
        backbone_rate: learning rate of a backbone's last block, as a share of the heads'.
        layer_decay: factor from each block to the one before it.
        gradient_checkpointing: blocks that train keep their inputs alone and run once more in the
            backward pass.
        part: rows a live backbone encodes at once (gradient caching); 0 for the whole batch.
        chunk: rows of the loss at once; 0 for the dense loss.
        learning_rate, warmup (steps), ema_decay: of the loop.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("captions_per_image", "views"), Range(1)),
        **dict.fromkeys(("batch", "hard_negatives", "part", "chunk"), Range(0)),
        **dict.fromkeys(("unfreeze_text", "unfreeze_image"), Range(-1)),
        "backbone_rate": FACTOR,
        "layer_decay": SHARE,
        "ema_decay": BELOW_ONE,
    }

    loss: str = "infonce"
    epochs: int = 10
    batch: int = 128
    captions_per_image: int = 1
    hard_negatives: int = 0
    views: int = 1
    unfreeze_text: int = 0
    unfreeze_image: int = 0
    prefix_cache: str = ""
    backbone_rate: float = 0.1
    layer_decay: float = 0.8
    gradient_checkpointing: bool = False
    part: int = 0
    chunk: int = 0
    learning_rate: float = 1e-3
    warmup: int = 20
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"got train.loss {self.loss!r}, expected one of {[*LOSSES]}")
        if self.prefix_cache not in PREFIX_TYPES:
            got, known = self.prefix_cache, [*PREFIX_TYPES]
            raise ValueError(f"got train.prefix_cache {got!r}, expected one of {known}")
        super().__post_init__()
        if self.batch == 1 and not self.hard_negatives:
            raise ValueError(
                "got train.batch 1, expected 2 or more, or 0 for all images: one image has no "
                "other to be told from, and its loss is 0 whatever the model is"
            )


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A whole run.

    Attributes:
        tensorboard: whether losses, rates and recall are written to `output/tensorboard` too.
        model, train: see there.
    """

    MODELS = "model", ("text", "image", "start")

    tensorboard: bool = False
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


def read_config(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> TrainConfig:
    """The configuration of a CLIP's training, see `clipguide.training.run_config.read_run_config`.

    Raises:
        ValueError: a file that cannot be read, an unknown key (the known ones are listed), a value
            of the wrong type or out of range.
    """
    return read_run_config(path, changes, TrainConfig)
