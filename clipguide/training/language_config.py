"""The configuration of a text tower of another language: a TOML or YAML file (`[language]`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from clipguide.clip.language_clip import LanguageSettings
from clipguide.data.text_pairs import TextPairs, read_text_pairs
from clipguide.training.optimizer_settings import TrainTable
from clipguide.training.ranges import BELOW_ONE, RATE, Range
from clipguide.training.run_config import RunConfig, Split


@dataclass(frozen=True)
class TextSplit(Split):
    """Where pairs of texts come from.

    Attributes:
        pairs: a TSV or CSV of `source` and `translation`.
    """

    pairs: str = ""

    def read_texts(self, base: Path) -> TextPairs:
        """The pairs; a relative path starts at `base`.

        Raises:
            ValueError: no such file, or one of `Split`'s ways to name images.
        """
        if not self.pairs or self.captions or self.images or self.folder or self.tars:
            raise ValueError("got a split without pairs, or with images, expected pairs alone")
        return read_text_pairs(base / self.pairs)


@dataclass(frozen=True)
class TowerSettings(LanguageSettings):
    """What is taught, and by whom.

    Attributes:
        teacher: a scorer of images, as `load_scorer` takes it: its text tower teaches.
        text: a text encoder of transformers with its tokenizer, by hub name or folder.
    """

    teacher: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.teacher and self.text):
            raise ValueError("got no language.teacher or language.text, expected both")

    def settings(self) -> LanguageSettings:
        """Those of the tower."""
        return LanguageSettings(self.pooling, self.head, self.dropout, self.context_length)


@dataclass(frozen=True)
class LanguageTrainSettings(TrainTable):
    """How it is trained. An epoch takes every pair once.

    Attributes:
        epochs, batch: passes over the pairs; pairs of a step.
        learning_rate: of the encoder; `head_rate` is the factor on it for the head.
        warmup (steps), ema_decay: of the loop.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {
        "batch": Range(1),
        "head_rate": RATE,
        "ema_decay": BELOW_ONE,
    }

    epochs: int = 5
    batch: int = 64
    learning_rate: float = 2e-5
    head_rate: float = 10.0
    warmup: int = 100
    ema_decay: float = 0.0


@dataclass(frozen=True)
class LanguageConfig(RunConfig):
    """A whole run."""

    MODELS = "language", ("teacher", "text")
    SPLIT = TextSplit

    data: Mapping[str, TextSplit] = field(default_factory=dict[str, TextSplit])
    language: TowerSettings = field(default_factory=TowerSettings)
    train: LanguageTrainSettings = field(default_factory=LanguageTrainSettings)
