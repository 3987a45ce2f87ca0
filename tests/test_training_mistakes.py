"""Numbers of a run that make no sense are refused before it begins."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome

from clipguide.training.config import ModelSettings, TrainSettings
from clipguide.training.loop import LoopSettings

NUMBERS = [
    (kind, name)
    for kind in (TrainSettings, ModelSettings)
    for name, value in vars(kind()).items()
    if isinstance(value, (int, float))
    and not isinstance(value, bool)
    and name != "image_size"  # by the encoder
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -2, -1e300])
def test_no_number_of_a_configuration_may_be_senseless(
    kind: type[Any], name: str, value: float
) -> None:
    with pytest.raises(
        ValueError, match=rf"got (train|model)\.{name} {re.escape(str(value))}, expected "
    ):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_grad_norm": 0.0}, "got train.max_grad_norm 0.0, expected above 0"),
        ({"ema_decay": 2.0}, "got train.ema_decay 2.0, expected from 0, below 1"),
        ({"ema_decay": 1.0}, "got train.ema_decay 1.0, expected from 0, below 1"),
        ({"layer_decay": 1.5}, "got train.layer_decay 1.5, expected from 0, up to 1"),
        ({"seed": 2**63}, "expected from 0, below 2[*][*]63"),
        ({"seed": 10**400}, "expected from 0, below 2[*][*]63"),
        ({"batch": 1}, "got train.batch 1, expected 2 or more, or 0"),
    ],
)
def test_a_number_at_the_end_of_its_range(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0}, {"learning_rate": math.nan}, {"learning_rate": 0.0}, {"warmup": -1},
        {"weight_decay": -0.1}, {"betas": (0.9, 1.0)}, {"betas": (math.nan, 0.9)},
        {"max_grad_norm": -1.0}, {"ema_decay": 2.0}, {"seed": -1}, {"log_every": 0},
        {"save_every": 0},
    ],
)  # fmt: skip
def test_the_loop_of_every_recipe_checks_its_numbers(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"got {next(iter(change))} "):
        replace(LoopSettings(steps=3, learning_rate=0.1), **change)


def test_numbers_at_the_ends_that_have_a_meaning() -> None:
    TrainSettings(batch=1, hard_negatives=1, backbone_rate=0.0, layer_decay=1.0, weight_decay=0.0)
    TrainSettings(ema_decay=0.0, warmup=0, batch=0, seed=2**63 - 1, layer_decay=0.0)


def test_a_not_a_number_of_a_file_is_refused_in_one_line(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    given = ("--set", f"output={tmp_path / 'out'}", "--set", "train.learning_rate=nan")
    outcome = cli("train", toys / "toy.toml", *given)
    assert outcome.code == 2
    assert "got train.learning_rate nan, expected above 0 and up to 1e+30" in outcome.err
    assert not (tmp_path / "out").exists()
