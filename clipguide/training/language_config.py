"""The configuration of a text tower of another language: a TOML or YAML file (`[language]`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipguide.clip.language_clip import LanguageSettings
from clipguide.data.text_pairs import TextPairs, read_text_pairs
from clipguide.training.config_file import build, parse_file, table_at
from clipguide.training.optimizer_settings import OptimizerSettings
from clipguide.training.processes import PRECISIONS
from clipguide.training.ranges import ABOVE_ZERO, BELOW_ONE, FACTOR, RATE, SEED, Range, check_ranges
from clipguide.training.run_config import RunConfig, Split, read_tables


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
class LanguageTrainSettings(OptimizerSettings):
    """How it is trained. An epoch takes every pair once.

    Attributes:
        epochs, batch: passes over the pairs; pairs of a step.
        learning_rate: of the encoder; `head_rate` is the factor on it for the head.
        warmup (steps), ema_decay: of the loop.
        precision: what is computed in: "float32", "bfloat16", or "float16" on a GPU.
    """

    epochs: int = 5
    batch: int = 64
    learning_rate: float = 2e-5
    head_rate: float = 10.0
    warmup: int = 100
    ema_decay: float = 0.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            got, known = self.precision, [*PRECISIONS]
            raise ValueError(f"got train.precision {got!r}, expected one of {known}")
        check_ranges(self, _RANGES, "train.")


_RANGES = {
    **dict.fromkeys(("epochs", "batch", "save_every"), Range(1)),
    **dict.fromkeys(("learning_rate", "head_rate"), RATE),
    "weight_decay": FACTOR,
    "warmup": Range(0),
    "ema_decay": BELOW_ONE,
    "max_grad_norm": ABOVE_ZERO,
    "seed": SEED,
}


@dataclass(frozen=True)
class LanguageConfig(RunConfig):
    """A whole run."""

    MODELS = "language", ("teacher", "text")
    SPLIT = TextSplit

    data: Mapping[str, TextSplit] = field(default_factory=dict[str, TextSplit])
    language: TowerSettings = field(default_factory=TowerSettings)
    train: LanguageTrainSettings = field(default_factory=LanguageTrainSettings)


def is_language(path: str | os.PathLike[str]) -> bool:
    """Whether a file configures a text tower of another language: it has a table `language`."""
    return "language" in parse_file(Path(path))


def read_language_config(
    path: str | os.PathLike[str], changes: Sequence[str] = ()
) -> LanguageConfig:
    """Read a configuration, as `clipguide.training.config.read_config` does.

    `language.teacher` and `language.text` that begin with a dot are relative to the file.

    Raises:
        ValueError: a file that cannot be read, an unknown key (the known ones are listed), a value
            of the wrong type or out of range.
    """
    tables = read_tables(path, changes, LanguageConfig)
    language = build(TowerSettings, tables["language"], "language")
    train = build(LanguageTrainSettings, table_at(tables.get("train", {}), "train"), "train")
    return build(LanguageConfig, {**tables, "language": language, "train": train}, "")
