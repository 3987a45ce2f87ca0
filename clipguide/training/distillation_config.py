"""The configuration of a latent tower made from a teacher's: a TOML or YAML file (`[latent]`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from clipguide.training.config_file import build, parse_file, table_at
from clipguide.training.optimizer_settings import OptimizerSettings
from clipguide.training.processes import PRECISIONS
from clipguide.training.ranges import (
    ABOVE_ZERO,
    FACTOR,
    RATE,
    SEED,
    SHARE,
    Range,
    check_ranges,
)
from clipguide.training.run_config import RunConfig, read_tables


@dataclass(frozen=True)
class LatentSettings:
    """What is made from what.

    Attributes:
        teacher: a scorer of images, as `load_scorer` takes it.
        autoencoder: of diffusers, whose latents are read (`clipguide.training.autoencoders`).
        image_size: side in pixels of the pictures that the autoencoder encodes; what is cut away
            at the borders is what the teacher's preprocessing cuts away.
        stem_width, stem_blocks: of `TeacherTowerShape`.
    """

    teacher: str = ""
    autoencoder: str = ""
    image_size: int = 256
    stem_width: int = 64
    stem_blocks: int = 6

    def __post_init__(self) -> None:
        if not (self.teacher and self.autoencoder):
            raise ValueError("got no latent.teacher or latent.autoencoder, expected both")
        if self.image_size < 8:
            raise ValueError(f"got latent.image_size {self.image_size}, expected 8 or more")


@dataclass(frozen=True)
class DistillSettings(OptimizerSettings):
    """How it is trained: first the stem alone, then everything.

    Attributes:
        stem_epochs, stem_batch, stem_rate: of the first phase.
        epochs, batch, learning_rate: of the second; the rate is that of the teacher's blocks.
        new_rate: factor on it for stem and modulation.
        views: cached looks at each photo, of which the first is the photo (`random_view`).
        flip: whether half of the latents are mirrored, as are their features.
        cosine, caption, features: weights of the second phase's losses.
        others: captions of other photos that stand beside those of the batch as wrong ones.
        levels: noise levels, sigma_bar, that the figures of an epoch are at.
        precision: what the tower computes in: "float32" or "bfloat16", "float16" on a GPU.
        warmup: steps until the rate is reached.
    """

    stem_epochs: int = 7
    stem_batch: int = 32
    stem_rate: float = 1.5e-3
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 5e-4
    new_rate: float = 2.0
    views: int = 1
    flip: bool = True
    cosine: float = 6.0
    caption: float = 0.5
    features: float = 0.5
    others: int = 2000
    levels: tuple[float, ...] = (0.0, 0.5, 0.85)
    precision: str = "float32"
    warmup: int = 50

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            got, known = self.precision, [*PRECISIONS]
            raise ValueError(f"got train.precision {got!r}, expected one of {known}")
        check_ranges(self, _RANGES, "train.")
        if not self.levels or not all(level in SHARE for level in self.levels):
            raise ValueError(f"got train.levels {self.levels}, expected numbers from 0 to 1")


_RANGES = {
    **dict.fromkeys(("stem_epochs", "stem_batch", "epochs", "views", "save_every"), Range(1)),
    **dict.fromkeys(("stem_rate", "learning_rate", "new_rate"), RATE),
    **dict.fromkeys(("cosine", "caption", "features", "weight_decay"), FACTOR),
    "batch": Range(2),
    "others": Range(0),
    "warmup": Range(0),
    "max_grad_norm": ABOVE_ZERO,
    "seed": SEED,
}


@dataclass(frozen=True)
class DistillConfig(RunConfig):
    """A whole run."""

    MODELS = "latent", ("teacher", "autoencoder")

    latent: LatentSettings = field(default_factory=LatentSettings)
    train: DistillSettings = field(default_factory=DistillSettings)


def is_latent(path: str | os.PathLike[str]) -> bool:
    """Whether a file configures a latent tower: it has a table `latent`."""
    return "latent" in parse_file(Path(path))


def read_distill_config(path: str | os.PathLike[str], changes: Sequence[str] = ()) -> DistillConfig:
    """Read a configuration, as `clipguide.training.config.read_config` does.

    `latent.teacher` and `latent.autoencoder` that begin with a dot are relative to the file.

    Raises:
        ValueError: a file that cannot be read, an unknown key (the known ones are listed), a value
            of the wrong type or out of range.
    """
    tables = read_tables(path, changes, DistillConfig)
    settings = table_at(tables.get("train", {}), "train")
    if isinstance(settings.get("levels"), list):
        levels = tuple(map(float, cast("list[float]", settings["levels"])))
        settings = {**settings, "levels": levels}
    latent = build(LatentSettings, tables["latent"], "latent")
    train = build(DistillSettings, settings, "train")
    return build(DistillConfig, {**tables, "latent": latent, "train": train}, "")
