"""The configuration of a captioner that is trained: a TOML or YAML file (`[captioner]`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipguide.language.captioner_files import KINDS, PREFIX
from clipguide.language.clip_prefix import MAPPINGS
from clipguide.language.sight import VIEWS
from clipguide.training.config_file import build, parse_file, table_at
from clipguide.training.optimizer_settings import OptimizerSettings
from clipguide.training.processes import PRECISIONS
from clipguide.training.ranges import ABOVE_ZERO, BELOW_ONE, FACTOR, RATE, SEED, Range, check_ranges
from clipguide.training.run_config import RunConfig, read_tables


@dataclass(frozen=True)
class CaptionerSettings:
    """What writes, and what it sees.

    Attributes:
        kind: one of `clipguide.language.captioner_files.KINDS`.
        image: a transformers image encoder, of which each place is seen; or
        clip: a scorer by name, of which `view` is seen: "patches" or "embedding".
        hidden: of an LSTM; the width of a small language model.
        dropout: while it is trained.
        least: how often a word stands in the captions that is taught.
        prefix, mapping: k and kind of the mapping of `clip_prefix`.
        layers: of its small language model, and of a mapping by a transformer.
    """

    kind: str = ""
    image: str = ""
    clip: str = ""
    view: str = "patches"
    hidden: int = 512
    dropout: float = 0.5
    least: int = 5
    prefix: int = 10
    mapping: str = "mlp"
    layers: int = 4

    def __post_init__(self) -> None:
        choices = {"kind": KINDS, "view": VIEWS, "mapping": MAPPINGS}
        for name, known in choices.items():
            if (got := getattr(self, name)) not in known:
                raise ValueError(f"got captioner.{name} {got!r}, expected one of {[*known]}")
        if bool(self.image) == bool(self.clip):
            raise ValueError("got captioner.image and captioner.clip both or none, expected one")
        if self.kind == PREFIX and self.hidden % 64 and self.hidden > 64:
            raise ValueError(f"got captioner.hidden {self.hidden}, expected a multiple of 64")
        check_ranges(self, _CAPTIONER, "captioner.")


@dataclass(frozen=True)
class CaptionTrainSettings(OptimizerSettings):
    """How it is trained. An epoch takes every photo once, with captions drawn among its own.

    Attributes:
        epochs, batch: passes over the photos; photos of a step.
        captions_per_image: drawn for each photo.
        flip: whether half of the photos are mirrored, as places are (nearly what the encoder makes
            of a mirrored photo).
        longest: words of a caption that are read.
        learning_rate, warmup (steps), ema_decay: of the loop.
        precision: what is computed in: "float32", "bfloat16", or "float16" on a GPU.
        every: epochs between two evaluations on dev.
    """

    epochs: int = 10
    batch: int = 64
    captions_per_image: int = 5
    flip: bool = True
    longest: int = 24
    learning_rate: float = 1e-3
    warmup: int = 50
    ema_decay: float = 0.0
    precision: str = "float32"
    every: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            got, known = self.precision, [*PRECISIONS]
            raise ValueError(f"got train.precision {got!r}, expected one of {known}")
        check_ranges(self, _TRAIN, "train.")


_CAPTIONER = {
    **dict.fromkeys(("hidden", "least", "prefix", "layers"), Range(1)),
    "dropout": BELOW_ONE,
}
_TRAIN = {
    **dict.fromkeys(
        ("epochs", "batch", "captions_per_image", "longest", "save_every", "every"), Range(1)
    ),
    "learning_rate": RATE,
    "warmup": Range(0),
    "weight_decay": FACTOR,
    "max_grad_norm": ABOVE_ZERO,
    "ema_decay": BELOW_ONE,
    "seed": SEED,
}


@dataclass(frozen=True)
class CaptionConfig(RunConfig):
    """A whole run."""

    MODELS = "captioner", ("image", "clip")

    captioner: CaptionerSettings = field(default_factory=CaptionerSettings)
    train: CaptionTrainSettings = field(default_factory=CaptionTrainSettings)


def is_captioner(path: str | os.PathLike[str]) -> bool:
    """Whether a file configures a captioner: it has a table `captioner`."""
    return "captioner" in parse_file(Path(path))


def read_caption_config(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> CaptionConfig:
    """Read a configuration, as `clipguide.training.config.read_config` does.

    Raises:
        ValueError: a file that cannot be read, an unknown key (the known ones are listed), a value
            of the wrong type or out of range.
    """
    tables = read_tables(path, changes, CaptionConfig)
    captioner = build(CaptionerSettings, tables["captioner"], "captioner")
    train = build(CaptionTrainSettings, table_at(tables.get("train", {}), "train"), "train")
    return build(CaptionConfig, {**tables, "captioner": captioner, "train": train}, "")
