"""The configuration of a training run: a TOML or YAML file, and changes of the form a.b=c."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from clipguide.data.pairs import Pairs, from_captions, from_folder, from_tars
from clipguide.training.config_file import build, expanded, parse_file, set_value, table_at
from clipguide.training.objectives import LOSSES
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

PREFIX_TYPES = ("", "float32", "float16")
"""What `TrainSettings.prefix_cache` may be."""
RENAMED = {"trunk_cache": "prefix_cache"}
"""Former key of `train` -> its key now: files written before still say what they meant."""
DEVICES = ("cpu", "auto")
"""What `TrainConfig.device` may be."""
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
class Split:
    """Where pairs come from: a captions file and an image folder, a folder, or tar archives.

    Attributes:
        captions, images, names: see `clipguide.data.pairs.from_captions`.
        folder: images with sidecar texts (`from_folder`).
        tars: webdataset archives (`from_tars`).
    """

    captions: str = ""
    images: str = ""
    names: str = ""
    folder: str = ""
    tars: tuple[str, ...] = ()

    def read(self, base: Path) -> Pairs:
        """The pairs; relative paths start at `base`."""
        kinds = [bool(self.captions), bool(self.folder), bool(self.tars)]
        if sum(kinds) != 1 or bool(self.captions) != bool(self.images):
            raise ValueError(
                "got a split with none or several of: captions and images, folder, tars"
            )
        if self.folder:
            return from_folder(base / self.folder)
        if self.tars:
            return from_tars([base / name for name in self.tars])
        names = base / self.names if self.names else None
        return from_captions(base / self.captions, base / self.images, names)


@dataclass(frozen=True)
class ModelSettings:
    """The encoder: its backbones (hub names or folders) and fields of `DualEncoderConfig`.

    `start` is a whole model in their place: a folder of a dual encoder, a transformers `CLIPModel`
    or an open_clip model, "hf:REPOSITORY", or "open_clip:ARCH/TAG". With `scratch` it gives its
    architecture, tokenizer and preprocessing alone, and "open_clip:ARCH" is enough. All the fields
    below are then its own.

    `image_size` is the side of what the image encoder sees: the shorter side of an image becomes as
    long, and the middle is kept. 0 is the image encoder's own preprocessing.
    """

    text: str = ""
    image: str = ""
    start: str = ""
    scratch: bool = False
    image_size: int = 0
    embed_dim: int = 256
    head: str = "projection"
    dropout: float = 0.1
    text_pooling: str = "cls"
    image_pooling: str = "mean"
    context_length: int = 64
    logit_scale: float = 1 / 0.07

    def __post_init__(self) -> None:
        check_ranges(self, _MODEL_RANGES, "model.")


@dataclass(frozen=True)
class TrainSettings:
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
        learning_rate, warmup (steps), weight_decay, max_grad_norm, ema_decay, seed: of the loop.
        save_every: steps between checkpoints.
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
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    seed: int = 0
    save_every: int = 100

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
class TrainConfig:
    """A whole run.

    Attributes:
        output: folder of the model, its checkpoint and its history.
        root: relative paths of the splits start here; the folder of the file, where it is empty.
        cache: folder of cached features; `output/cache` where it is empty.
        device: "cpu", or "auto" for what accelerate finds: a GPU for each process.
        tensorboard: whether losses, rates and recall are written to `output/tensorboard` too.
        data: "train", "dev" and perhaps "test".
        model, train: see there.
    """

    output: str
    root: str = ""
    cache: str = ""
    device: str = "cpu"
    tensorboard: bool = False
    data: Mapping[str, Split] = field(default_factory=dict[str, Split])
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        if not self.output:
            raise ValueError("got no output, expected a folder: --set output=DIR")
        if self.device not in DEVICES:
            raise ValueError(f"got device {self.device!r}, expected one of {[*DEVICES]}")
        if not {"train", "dev"} <= set(self.data) <= {"train", "dev", "test"}:
            got = ", ".join(self.data) or "none"
            raise ValueError(f"got splits {got}, expected data.train, data.dev (and data.test)")

    def cache_folder(self) -> Path:
        return Path(self.cache) if self.cache else Path(self.output) / "cache"

    def plain(self) -> dict[str, Any]:
        """What decides the run, as JSON; not where it is read and written, so that a run goes on
        from another working folder, or where its folders were moved together."""
        values = asdict(self)
        model: dict[str, Any] = values["model"]
        for key in _MODEL_PATHS:
            if Path(model[key]).is_absolute() and self.root:
                model[key] = os.path.relpath(model[key], self.root)
        return json.loads(json.dumps({k: v for k, v in values.items() if k not in _PLACES}))


_MODEL_PATHS = ("text", "image", "start")
_PLACES = ("root", "output", "cache", "device", "tensorboard")


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
    file = Path(path)
    table = expanded(parse_file(file))
    for change in changes:
        set_value(table, change)
    folder = file.parent.absolute()
    table["root"] = str(folder / str(table.get("root", "")))
    model = table.get("model")
    if isinstance(model, dict):
        named = cast("dict[str, Any]", model)
        for key in _MODEL_PATHS:
            if str(named.get(key, "")).startswith("."):
                named[key] = str(folder / named[key])
    return _config(table)


def _config(table: Mapping[str, Any]) -> TrainConfig:
    data = table_at(table.get("data", {}), "data")
    splits = {name: build(Split, value, f"data.{name}") for name, value in data.items()}
    parts = {
        "data": splits,
        "model": build(ModelSettings, table.get("model", {}), "model"),
        "train": build(TrainSettings, renamed(table_at(table.get("train", {}), "train")), "train"),
    }
    return build(TrainConfig, {"output": "", **table, **parts}, "")


def renamed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table `train` with its former keys replaced by those of today."""
    return {RENAMED.get(key, key): value for key, value in table.items()}
