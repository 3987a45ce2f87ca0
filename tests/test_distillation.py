"""Runs that make a latent scorer from a teacher on a few pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_backbones import toy_captions
from tiny_distillation import latent_toys, recall, run_of

from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import load_scorer
from clipguide.data.pairs import from_captions
from clipguide.training.autoencoders import load_autoencoder
from clipguide.training.distillation_config import DistillConfig
from clipguide.training.distillation_run import DistillationRun
from clipguide.training.run_config import read_run_config


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_toys(tmp_path_factory.mktemp("toys"))


def test_a_run_makes_a_latent_scorer(toys: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    results = run_of(toys, tmp_path / "run").train(on_epoch=lambda epoch, _: seen.append(epoch))
    assert seen == [1, 2]
    assert {"R@10 sigma_bar 0", "cosine sigma_bar 0.7"} < {*results["dev"]}
    scorer = load_scorer(tmp_path / "run")
    assert isinstance(scorer, LatentScorer)
    autoencoder = load_autoencoder(str(toys / "vae"))
    scorer.check_autoencoder(autoencoder)
    latents, level = torch.randn(2, 4, 8, 12), torch.tensor([0.0, 0.7])
    again = run_of(toys, tmp_path / "again")
    again.train()
    other = load_scorer(tmp_path / "again")
    assert isinstance(other, LatentScorer)  # the same seed gives the same bits
    assert torch.equal(scorer.encode_latents(latents, level), other.encode_latents(latents, level))
    with pytest.raises(ValueError, match="already there"):
        run_of(toys, tmp_path / "run").train()


@pytest.mark.parametrize("killed_at", [1, 3])
def test_resumes_to_the_bit(toys: Path, tmp_path: Path, killed_at: int) -> None:
    """Killed in the first phase, and in the second."""
    whole = run_of(toys, tmp_path / "whole")
    whole.train()

    def kill(step: int, _steps: int, _loss: float) -> None:
        if step == killed_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_of(toys, tmp_path / "killed").train(on_step=kill)
    resumed = run_of(toys, tmp_path / "killed")
    resumed.train(resume=True)
    expected = whole.tower.state_dict()
    for name, value in resumed.tower.state_dict().items():
        assert torch.equal(value, expected[name]), name
    history = [json.loads((tmp_path / n / "history.json").read_text()) for n in ("whole", "killed")]
    assert history[0] == history[1]


def test_the_first_phase_trains_the_stem_alone(toys: Path, tmp_path: Path) -> None:
    run = run_of(toys, tmp_path / "run", "train.stem_epochs=30", "train.stem_rate=0.01")
    before = {name: value.clone() for name, value in run.tower.named_parameters()}
    losses: list[float] = []

    def stop(step: int, _steps: int, loss: float) -> None:
        losses.append(loss)
        if step == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(on_step=stop)
    changed = {n.split(".")[0] for n, v in run.tower.named_parameters() if not v.equal(before[n])}
    assert changed == {"stem", "level"}
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("latent.teacher=", "latent.teacher"),
        ("train.batch=1", "train.batch 1, expected 2 or more"),
        ("train.levels=[1.5]", "numbers from 0 to 1"),
        ("train.precision=int8", "train.precision 'int8'"),
        ("train.rate=1", "got key train.rate, expected one of"),
        ("latent.autoencoder=./clip", "clip"),
        ("latent.teacher=starter:nothing", "got scorer 'starter:nothing'"),
    ],
)
def test_mistakes_are_named(toys: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.").replace("[", r"\[")):
        run_of(toys, tmp_path / "run", change)


def test_a_picture_that_cannot_be_read_is_left_out(toys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    file = toy_captions(folder)
    (folder / "images" / "red_ball.png").write_bytes(b"no picture")
    notes: list[str] = []
    config = read_run_config(
        toys / "toy.toml",
        [f"output={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", f"root={folder}",
         f'data.train.captions="{file}"'],
        DistillConfig,
    )  # fmt: skip
    run = DistillationRun(config, recall, notes.append)
    assert any("red_ball.png" in line for line in notes)
    kept = from_captions(toys / "captions.tsv", toys / "images")
    assert len(run.splits["train"].pairs.pictures) == len(kept.pictures) - 1


def test_the_command(toys: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    output = tmp_path / "run"
    done = cli("train", str(toys / "toy.toml"), "--set", f"output={output}", "--json")
    assert done.code == 0
    assert done.data["output"] == str(output)
    assert (output / "latent_clip.json").is_file()
    shown = cli("train", str(toys / "toy.toml"), "--set", f"output={output}", "--resume")
    assert shown.code == 0
    assert "sigma_bar 0.7" in shown.out
    refused = cli("train", str(toys / "toy.toml"), "--set", "output=")
    assert refused.code == 2
    assert "output=DIR" in refused.err


def test_a_run_goes_on_where_its_folders_were_moved_together(toys: Path, tmp_path: Path) -> None:
    """What decides a run does not name the folder that teacher and autoencoder are in."""
    shutil.copytree(toys, tmp_path / "moved")
    before, after = (
        read_run_config(folder / "toy.toml", ["output=run"], DistillConfig)
        for folder in (toys, tmp_path / "moved")
    )
    assert before.latent.teacher == str(toys / "clip")
    assert after.latent.teacher == str(tmp_path / "moved" / "clip")
    assert before.plain() == after.plain()
    assert str(toys) not in json.dumps(before.plain())
