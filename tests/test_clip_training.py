"""Training runs on toy pictures: resumed to the bit after kill -9, cached as live, in parts."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from safetensors.torch import load_file
from tiny_training import toy_run

from clipguide.clip.loading import load_scorer
from clipguide.training.batches import cached, live_images, live_texts
from clipguide.training.clip_run import ClipRun
from clipguide.training.config import read_config
from clipguide.training.features import image_features, text_features
from clipguide.training.run_files import CONFIG, HISTORY, STATE

FROZEN = {"views": 2, "captions_per_image": 2, "hard_negatives": 1, "ema_decay": 0.9}
LIVE = {"unfreeze_image": -1, "unfreeze_text": 1, "views": 2, "chunk": 3}
REPETITIONS = int(os.environ.get("CLIPGUIDE_KILLS", "4"))
"""Kills of each run; the suite makes few."""


# --- kill -9 -------------------------------------------------------------------------------------


def train_and_kill(run: ClipRun, steps: int, delay: float) -> bool:
    """Train in a process of its own, killed `delay` seconds after some steps; whether it was."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            there = Path(run.config.output, CONFIG).exists()
            run.train(resume=there, on_step=lambda *_: os.write(writer, b".") and None)
        finally:
            os._exit(0)
    os.close(writer)
    seen = 0
    while seen < steps and os.read(reader, 1):
        seen += 1
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("settings", [FROZEN, LIVE], ids=["frozen", "live"])
def test_a_run_killed_anywhere_goes_on_to_the_bit(
    toys: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    whole = toy_run(toys, tmp_path / "whole", **settings)
    whole.train()
    rng = random.Random(len(settings))
    killed = toy_run(toys, tmp_path / "killed", **settings)
    kills = 0
    for attempt in range(REPETITIONS):
        if attempt % 4 == 3:  # it has finished by now: once more from the start
            shutil.rmtree(tmp_path / "killed")
        kills += train_and_kill(killed, rng.randint(1, 5), rng.uniform(0, 0.02))
    assert kills >= REPETITIONS // 2
    again = toy_run(toys, tmp_path / "killed", **settings)
    again.train(resume=True)
    for name in (STATE, HISTORY, "model.safetensors"):
        expected = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "killed" / name).read_bytes() == expected, name
    assert not [*(tmp_path / "killed").glob("*.partial*.json")]


def test_the_statistics_of_batch_normalisation_are_part_of_the_checkpoint(
    toys: Path, tmp_path: Path
) -> None:
    toy_run(toys, tmp_path, **LIVE).train()
    state = load_file(tmp_path / STATE)
    means = [name for name in state if name.startswith("buffer.") and "running_mean" in name]
    assert means
    assert all(state[name].abs().sum() > 0 for name in means)


# --- the same thing another way ------------------------------------------------------------------


def test_cached_rows_are_live_rows(toys: Path, tmp_path: Path) -> None:
    run = toy_run(toys, tmp_path)
    model = run.model.eval()
    pairs = run.config.data["train"].read(Path(run.config.root))
    folder = toys / "cache"
    views = torch.stack([image_features(model, pairs.pictures, folder, v)[0] for v in range(3)])
    places, chosen = torch.tensor([4, 0, 7]), torch.tensor([2, 0, 1])
    with torch.no_grad():
        live = live_images(model, pairs.pictures, 0)(places, chosen)
        assert torch.allclose(cached(views)(places, chosen), live, atol=1e-6)
        texts = text_features(model, pairs.captions, folder).unsqueeze(0)
        live = live_texts(model, pairs.captions, 2)(places, places)
    assert torch.allclose(cached(texts)(places, torch.zeros_like(places)), live, atol=1e-6)
    assert not torch.allclose(views[0], views[1], atol=1e-3)


def test_the_saved_model_is_the_averaged_model_that_was_trained(toys: Path, tmp_path: Path) -> None:
    run = toy_run(toys, tmp_path, ema_decay=0.9)
    run.train()
    average = load_file(tmp_path / STATE)["average.clip.text_head.fc.weight"]
    assert torch.equal(run.model.text_head.fc.weight, average)
    texts = ["a red ball", "there is a blue box on a table"]
    with torch.no_grad():
        expected = run.model.encode_text(texts)
    assert torch.allclose(load_scorer(tmp_path).encode_text(texts), expected, atol=1e-6)


def test_a_small_rate_of_a_backbone_moves_it_less(toys: Path, tmp_path: Path) -> None:
    def moved(rate: float) -> float:
        settings = {"unfreeze_text": 1, "backbone_rate": rate, "epochs": 1}
        run = toy_run(toys, tmp_path / str(rate), **settings)
        names = [
            n for n, p in run.model.named_parameters() if p.requires_grad and "text.model" in n
        ]
        assert names
        assert all("layer.1." in name for name in names)  # the last of two
        before = {name: value.clone() for name, value in run.model.named_parameters()}
        run.train()
        after = dict(run.model.named_parameters())
        assert torch.equal(after["text.model.embeddings.word_embeddings.weight"],
                           before["text.model.embeddings.word_embeddings.weight"])  # fmt: skip
        return max(float((after[name] - before[name]).detach().abs().max()) for name in names)

    assert 0 < moved(0.01) < moved(1.0) / 10


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_run_that_is_there_is_not_written_over(toys: Path, tmp_path: Path) -> None:
    toy_run(toys, tmp_path, epochs=1).train()
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(ValueError, match="got a run already there, expected --resume"):
        toy_run(toys, tmp_path, epochs=1).train()
    with pytest.raises(ValueError, match=r"got another train\.epochs \(2, it has 1\) than its run"):
        toy_run(toys, tmp_path, epochs=2).train(resume=True)
    assert (tmp_path / STATE).read_bytes() == before


def test_a_picture_that_cannot_be_read_is_named_and_left_out(toys: Path, tmp_path: Path) -> None:
    shutil.copytree(toys, tmp_path / "toys")
    (tmp_path / "toys" / "images" / "red_ball.png").write_bytes(b"nothing")
    (tmp_path / "toys" / "images" / "lonely.png").write_bytes(b"nothing")
    notes: list[str] = []
    run = toy_run(tmp_path / "toys", tmp_path / "out", notes=notes, epochs=1)
    assert run.sampler.count == 11
    assert len([note for note in notes if note.startswith("skipped") and "red_ball" in note]) == 2
    assert any("1 images have no caption" in note for note in notes)
    run.train()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.speed=1", "got key train.speed, expected one of loss, epochs"),
        ("train.epochs=two", "got train.epochs = 'two', expected a int"),
        ("train.epochs=0", "got train.epochs 0, expected 1 or more"),
        ("train.loss=hinge", "got train.loss 'hinge', expected one of"),
        ("train", "got change 'train', expected a.b=c"),
        ("output.folder=1", "expected a table"),
        ("data.dev.images=", "got a split with none or several of"),
        ("data.other.folder=x", "expected data.train, data.dev"),
        ("model.start=x", "got a model without both"),
        ('model={start="x", head="linear"}', "got model.head with model.start, expected none"),
        ("model.image_size=-8", "got image_size -8, expected 0 or more"),
        ("model.text=./nothing", "got no folder"),
        ("train={part=2, unfreeze_image=-1}", "whose batch normalisation trains"),
        ("train.unfreeze_text=9", "got 9 blocks to unfreeze, expected at most 3"),
    ],
)
def test_a_mistake_in_a_configuration_is_one_line(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome], change: str, message: str
) -> None:
    outcome = cli("train", toys / "toy.toml", "--set", f"output={tmp_path}", "--set", change)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_output_must_be_given(toys: Path, cli: Callable[..., Outcome]) -> None:
    outcome = cli("train", toys / "toy.toml")
    assert outcome.code == 2
    assert "--set output=DIR" in outcome.err


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_every_epoch_and_json(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    given = ("train", toys / "toy.toml", "--set", f"output={tmp_path}", "--set", "train.epochs=2")
    outcome = cli(*given, "--json")
    assert outcome.code == 0
    lines = [line for line in outcome.err.splitlines() if "epoch" in line]
    assert len(lines) == 2
    assert "median rank" in lines[0]
    mean = (2 * math.log(5) + math.log(2)) / 3  # 12 pictures in batches of 5, 5 and 2
    assert f"(collapsed: {mean:.3f})" in lines[0]
    data: dict[str, Any] = outcome.data
    assert set(data["dev"]) == {"text_to_image", "image_to_text"}
    assert json.loads((tmp_path / HISTORY).read_text())["2"]["text_to_image"] is not None
    again = cli(*given, "--resume", "--json")
    assert again.data["dev"] == data["dev"]


def test_yaml_and_variables_say_the_same(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "output: out\nroot: ${TOYS}\ndata:\n"
        "  train: {captions: captions.tsv, images: images}\n"
        "  dev: {captions: captions.tsv, images: '${MISSING:-images}'}\n"
        "model: {text: ./text, image: ./image, embed_dim: 8}\n"
        "train: {epochs: 3, batch: 5, warmup: 2, save_every: 2}\n"
    )
    file = tmp_path / "toy.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="got no environment variable TOYS"):
        read_config(file)
    monkeypatch.setenv("TOYS", str(toys))
    found = read_config(file)
    expected = read_config(toys / "toy.toml", ["output=out"])
    assert found.train == expected.train
    assert found.data == expected.data
    assert Path(found.root) == toys
    assert Path(found.model.text) == tmp_path / "text"


# --- collapse ------------------------------------------------------------------------------------
