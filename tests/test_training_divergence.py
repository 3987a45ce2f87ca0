"""Runs that diverge or collapse, and the loss that a run gives of an epoch."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from safetensors.torch import load_file
from tiny_training import toy_run
from torch import Tensor, nn

from clipguide.training.collapse import CollapseGuard
from clipguide.training.loop import DivergedError, LoopSettings, train
from clipguide.training.run_files import HISTORY, STATE


def diverging(at: int, how: str) -> tuple[nn.Module, Callable[[int, torch.Generator], Any]]:
    """One weight; from step `at` on the loss, another figure, or its gradient is no number."""
    module = nn.Module()
    weight = nn.Parameter(torch.tensor([1.0]))
    module.register_parameter("w", weight)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        loss, other = weight.pow(2).sum(), torch.tensor(1.0)
        if index + 1 >= at:
            if how == "loss":
                loss = loss * math.nan
            elif how == "other":
                other = torch.tensor(math.inf)
            else:  # a finite loss with a gradient that is none
                loss = torch.sqrt((weight - weight.detach()).abs()).sum()
        return {"loss": loss, "other": other}

    return module, step


@pytest.mark.parametrize(
    ("how", "what"), [("loss", "loss nan"), ("other", "other inf"), ("gradient", "weights m.w")]
)
def test_a_run_that_diverges_stops_and_keeps_the_checkpoint_before(
    tmp_path: Path, how: str, what: str
) -> None:
    settings = LoopSettings(steps=9, learning_rate=0.01, save_every=2)
    module, step = diverging(5, how)
    with pytest.raises(DivergedError, match=rf"step 5: got {what}.* checkpoint of step 4 is kept"):
        train({"m": module}, step, settings, tmp_path, lambda line: None)
    kept = load_file(tmp_path / STATE)
    assert int(kept["optimizer.step.m.w"]) == 4
    assert all(bool(value.isfinite().all()) for value in kept.values())
    module, step = diverging(1, how)
    with pytest.raises(DivergedError, match=r"step 1: .*no checkpoint was made"):
        train({"m": module}, step, settings, tmp_path / "new", lambda line: None)
    assert not (tmp_path / "new").exists()


def test_weights_that_are_no_numbers_are_not_kept_although_the_loss_is_one(tmp_path: Path) -> None:
    """The step that is saved is the one whose gradient is no number."""
    module, step = diverging(4, "gradient")
    settings = LoopSettings(steps=4, learning_rate=0.01, save_every=4)
    with pytest.raises(DivergedError, match="step 4"):
        train({"m": module}, step, settings, tmp_path, lambda line: None)
    assert not [*tmp_path.iterdir()]


def test_the_command_says_which_loss_and_step(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    changes = ("train.learning_rate=1e30", "train.weight_decay=1000.0", "train.warmup=0")
    given = [word for change in changes for word in ("--set", change)]
    outcome = cli("train", toys / "toy.toml", "--set", f"output={tmp_path}", *given)
    assert outcome.code == 2
    assert "train.loss 'infonce': step " in outcome.err
    assert "the run has diverged" in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / STATE).exists()


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps_also_when_resumed(
    toys: Path, tmp_path: Path
) -> None:
    losses: list[float] = []
    toy_run(toys, tmp_path).train(on_step=lambda step, steps, loss: losses.append(loss))
    history = json.loads((tmp_path / HISTORY).read_text())
    assert len(losses) == 9
    for epoch in range(3):
        mean = sum(losses[3 * epoch : 3 * epoch + 3]) / 3
        assert history[str(epoch + 1)]["loss"] == pytest.approx(mean, rel=1e-6)


def test_a_run_of_one_image_is_refused(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "toys"
    shutil.copytree(toys, folder)
    lines = (folder / "captions.tsv").read_text().splitlines()
    (folder / "one.tsv").write_text("\n".join(lines[:2]) + "\n")  # the names of columns first
    with pytest.raises(ValueError, match=r"got 1 image in data\.train, expected 2 or more"):
        toy_run(folder, tmp_path / "out", "data.train.captions=one.tsv")


def test_single_pairs_say_nothing_of_collapse() -> None:
    guard = CollapseGuard(patience=2)
    for _ in range(5):
        guard.update(0.0, 0.0)  # ln 1
    assert not guard.collapsed
    guard.update(0.693, math.log(2))
    guard.update(0.0, 0.0)
    with pytest.warns(UserWarning, match="looks alike"):
        guard.update(0.693, math.log(2))
