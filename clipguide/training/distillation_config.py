"""The configuration of a latent tower made from a teacher's: a TOML or YAML file (`[latent]`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from clipguide.training.optimizer_settings import TrainTable
from clipguide.training.ranges import (
    FACTOR,
    RATE,
    SHARE,
    Range,
)
from clipguide.training.run_config import RunConfig


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
class DistillSettings(TrainTable):
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
        warmup: steps until the rate is reached.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        **dict.fromkeys(("stem_epochs", "stem_batch", "views"), Range(1)),
        **dict.fromkeys(("stem_rate", "new_rate"), RATE),
        **dict.fromkeys(("cosine", "caption", "features"), FACTOR),
        "batch": Range(2),
        "others": Range(0),
    }

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
    warmup: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels or not all(level in SHARE for level in self.levels):
            raise ValueError(f"got train.levels {self.levels}, expected numbers from 0 to 1")


@dataclass(frozen=True)
class DistillConfig(RunConfig):
    """A whole run."""

    MODELS = "latent", ("teacher", "autoencoder")

    latent: LatentSettings = field(default_factory=LatentSettings)
    train: DistillSettings = field(default_factory=DistillSettings)
