"""The configuration of a training run: a TOML or YAML file, and changes of the form a.b=c."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipguide.clip.encoder_settings import EncoderSettings
from clipguide.training.config_file import build, table_at
from clipguide.training.objectives import LOSSES
from clipguide.training.optimizer_settings import OptimizerSettings
from clipguide.training.processes import PRECISIONS
from clipguide.training.ranges import (
    ABOVE_ZERO,
    BELOW_ONE,
    FACTOR,
    RATE,
    SEED,
    SHARE,
    Range,
    check_ranges,
)
from clipguide.training.run_config import RunConfig, read_tables

PREFIX_TYPES = ("", "float32", "float16")
"""What `TrainSettings.prefix_cache` may be."""
RENAMED = {"trunk_cache": "prefix_cache"}
"""Former key of `train` -> its key now: files written before still say what they meant."""
_MODEL_RANGES = {
    "embed_dim": Range(1),
    "dropout": BELOW_ONE,
    "context_length": Range(3),
    "logit_scale": Range(0, 100, open_low=True),
}
_TRAIN_RANGES = {
    **dict.fromkeys(("epochs", "captions_per_image", "views", "save_every"), Range(1)),
    **dict.fromkeys(("batch", "hard_negatives", "part", "chunk", "warmup"), Range(0)),
    **dict.fromkeys(("unfreeze_text", "unfreeze_image"), Range(-1)),
    "learning_rate": RATE,
    "max_grad_norm": ABOVE_ZERO,
    **dict.fromkeys(("backbone_rate", "weight_decay"), FACTOR),
    "layer_decay": SHARE,
    "ema_decay": BELOW_ONE,
    "seed": SEED,
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
class TrainSettings(OptimizerSettings):
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
        precision: what encoders compute in: "float32", "bfloat16", or "float16" on a GPU.
        gradient_checkpointing: blocks that train keep their inputs alone and run once more in the
            backward pass.
        part: rows a live backbone encodes at once (gradient caching); 0 for the whole batch.
        chunk: rows of the loss at once; 0 for the dense loss.
        learning_rate, warmup (steps), ema_decay: of the loop.
    """

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
    precision: str = "float32"
    gradient_checkpointing: bool = False
    part: int = 0
    chunk: int = 0
    learning_rate: float = 1e-3
    warmup: int = 20
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"got train.loss {self.loss!r}, expected one of {[*LOSSES]}")
        for name, known in (("prefix_cache", PREFIX_TYPES), ("precision", [*PRECISIONS])):
            if (got := getattr(self, name)) not in known:
                raise ValueError(f"got train.{name} {got!r}, expected one of {[*known]}")
        check_ranges(self, _TRAIN_RANGES, "train.")
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
    """Read a configuration.

    `${NAME}` in a text is the environment variable, `${NAME:-text}` has a default. `root` and
    backbones that begin with a dot are relative to the file's folder; `output` and `cache` to the
    working folder.

    Args:
        path: `.toml`, `.yaml` or `.yml`.
        changes: `a.b=c`, c as TOML has it, or else a text.

    Raises:
        ValueError: a file that cannot be read, an unknown key (the known ones are listed), a value
            of the wrong type or out of range.
    """
    tables = read_tables(path, changes, TrainConfig)
    settings = renamed(table_at(tables.get("train", {}), "train"))
    model = build(ModelSettings, tables["model"], "model")
    train = build(TrainSettings, settings, "train")
    return build(TrainConfig, {**tables, "model": model, "train": train}, "")


def renamed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table `train` with its former keys replaced by those of today."""
    return {RENAMED.get(key, key): value for key, value in table.items()}
