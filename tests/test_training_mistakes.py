"""Runs that are asked for wrongly or go wrong: ranges, divergence, resuming, hostile YAML."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from safetensors.torch import load_file
from tiny_training import toy_run
from torch import Tensor, nn

from clipguide.training.collapse import CollapseGuard
from clipguide.training.config import ModelSettings, TrainSettings, read_config
from clipguide.training.config_file import MAX_BYTES, parse_file
from clipguide.training.loop import DivergedError, LoopSettings, train
from clipguide.training.run_files import CONFIG, HISTORY, STATE

# --- ranges --------------------------------------------------------------------------------------

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


# --- divergence ----------------------------------------------------------------------------------


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


# --- an epoch's figures --------------------------------------------------------------------------


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


# --- resuming ------------------------------------------------------------------------------------


def test_nothing_to_resume_is_said(toys: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "never", tmp_path):
        with pytest.raises(ValueError, match=f"{place}: got no run to resume"):
            toy_run(toys, place).train(resume=True)
        assert not (place / STATE).exists()


def test_a_run_killed_before_its_first_checkpoint_is_resumed(toys: Path, tmp_path: Path) -> None:
    toy_run(toys, tmp_path / "whole", epochs=1).train()
    (tmp_path / "killed").mkdir()
    shutil.copy(tmp_path / "whole" / CONFIG, tmp_path / "killed")
    with pytest.raises(ValueError, match=r"another train\.epochs \(2, it has 1\)"):
        toy_run(toys, tmp_path / "killed", epochs=2).train(resume=True)
    toy_run(toys, tmp_path / "killed", epochs=1).train(resume=True)
    states = [(tmp_path / name / STATE).read_bytes() for name in ("whole", "killed")]
    assert states[0] == states[1]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("train.seed=5", "train.seed (5, it has 0)"),
        ("model.embed_dim=4", "model.embed_dim (4, it has 8)"),
        ("data.train.names=names.txt", "data.train.names ('names.txt', it has '')"),
    ],
)
def test_a_changed_setting_is_named(toys: Path, tmp_path: Path, change: str, key: str) -> None:
    folder = tmp_path / "toys"
    shutil.copytree(toys, folder)
    (folder / "names.txt").write_text("\n".join(p.name for p in (folder / "images").iterdir()))
    toy_run(folder, tmp_path / "out", epochs=1).train()
    with pytest.raises(ValueError, match=r"got another .* than its run") as caught:
        toy_run(folder, tmp_path / "out", change, epochs=1).train(resume=True)
    assert key in str(caught.value)


def test_a_run_goes_on_from_another_folder_and_after_a_move(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Outcome]
) -> None:
    shutil.copytree(toys, tmp_path / "a" / "toys")
    changes = ("--set", "train.epochs=1", "--set", f"output={tmp_path / 'out'}")
    monkeypatch.chdir(tmp_path / "a")
    assert cli("train", "toys/toy.toml", *changes).code == 0
    monkeypatch.chdir(tmp_path / "a" / "toys")
    assert cli("train", "toy.toml", *changes, "--resume").code == 0
    monkeypatch.chdir(tmp_path)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert cli("train", "b/toys/toy.toml", *changes, "--resume").code == 0
    captions = tmp_path / "b" / "toys" / "captions.tsv"
    captions.write_text(captions.read_text().replace("red", "green"))
    outcome = cli("train", "b/toys/toy.toml", *changes, "--resume")
    assert outcome.code == 2
    assert "captions_sha256" in outcome.err


# --- files ---------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "got more than 10000 values"),
        (MERGES, "got more than 10000 values"),
        ("a: &a [1, *a]", "got a YAML alias of what it is part of"),
        ("a: &a {b: *a}", "got a YAML alias of what it is part of"),
        ("a: 1\nb: 2\na: 3", "line 3: got key a twice"),
        ("1: x", "line 1: got key '1', expected a text"),
        ("? [a, b]\n: x", "expected a text"),
        ("a: " + "[" * 20_000, "nested too deep"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("", "got no table"),
        ("- a", "got no table"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: '" + "x" * MAX_BYTES + "'", "got more than 1048576 bytes"),
    ],
)
def test_hostile_yaml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        parse_file(file)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 20_000, "nested too deep"),
        ("a = '" + "x" * MAX_BYTES + "'", "got more than 1048576 bytes"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
    ],
)
def test_hostile_toml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_file(file)


def test_aliases_and_merges_of_an_honest_file_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("base: &b {x: 1, y: 2}\none: {<<: *b, y: 3}\ntwo: *b\n")
    assert parse_file(file) == {
        "base": {"x": 1, "y": 2}, "one": {"x": 1, "y": 3}, "two": {"x": 1, "y": 2},
    }  # fmt: skip


def test_yaml_numbers_that_are_none_are_refused(toys: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        f"output: out\nroot: {toys}\ndata:\n"
        "  train: {captions: captions.tsv, images: images}\n"
        "  dev: {captions: captions.tsv, images: images}\n"
        "train: {weight_decay: .nan}\n"
    )
    with pytest.raises(
        ValueError, match=r"got train\.weight_decay nan, expected from 0, up to 1000"
    ):
        read_config(file)
