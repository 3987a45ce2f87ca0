"""The settings that every run of training has, with one default for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from clipguide.training.processes import PRECISIONS
from clipguide.training.ranges import ABOVE_ZERO, FACTOR, RATE, SEED, Range, check_ranges

_RANGES = {
    **dict.fromkeys(("epochs", "save_every"), Range(1)),
    "learning_rate": RATE,
    "warmup": Range(0),
    "weight_decay": FACTOR,
    "max_grad_norm": ABOVE_ZERO,
    "seed": SEED,
}


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights are stepped and kept.

    Attributes:
        weight_decay: of AdamW.
        max_grad_norm: a longer gradient is scaled down to this length.
        seed: of everything that a step draws.
        save_every: steps between checkpoints.
    """

    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0
    save_every: int = 100


@dataclass(frozen=True, kw_only=True)
class TrainTable(OptimizerSettings):
    """The table `train` of a settings file.

    Attributes:
        epochs: passes over the data.
        learning_rate: of the loop, reached after `warmup` steps.
        warmup: steps.
        precision: what is computed in: "float32", "bfloat16", or "float16" on a GPU.
        RANGES: of the numbers that a kind of run has beside these, or has otherwise.

    Raises:
        ValueError: another precision, a number out of its range.
    """

    RANGES: ClassVar[Mapping[str, Range]] = {}

    epochs: int
    learning_rate: float
    warmup: int
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            got, known = self.precision, [*PRECISIONS]
            raise ValueError(f"got train.precision {got!r}, expected one of {known}")
        check_ranges(self, {**_RANGES, **self.RANGES}, "train.")
