"""The starter's latent tower: two steps of its recipe, and the bundled one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import Outcome
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import clipguide
from clipguide.attach.starter import load_starter_decoder
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.loading import load_scorer
from clipguide.data.scene_captions import parse_caption, spec_of, swap, write_caption
from clipguide.data.scenes import render, sample_scene
from clipguide.evaluation.swaps import swap_accuracy
from clipguide.images import to_tensor
from training.starter import latent


def make(monkeypatch: pytest.MonkeyPatch, folder: Path, steps: int) -> Path:
    """`latent.main` on eight scenes into `folder`/out."""
    monkeypatch.setattr(sys, "argv", ["latent", "--work", f"{folder}", "--out", f"{folder}/out"])
    for name, value in {"SCENES": 8, "DOUBLES": 3, "TESTS": 4, "BATCH": 6, "WRONG": 2}.items():
        monkeypatch.setattr(latent, name, value)
    settings = replace(latent.SETTINGS, steps=steps, save_every=1)
    monkeypatch.setattr(latent, "train_tower", partial(TRAIN, settings=settings))
    latent.main()
    return folder / "out"


TRAIN = latent.train_tower


def test_two_steps_make_a_scorer_and_resume_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = make(monkeypatch, tmp_path / "whole", 2)
    scorer = load_scorer(whole)
    assert isinstance(scorer, LatentScorer)
    scorer.check_autoencoder(clipguide.load_starter().vae)
    assert scorer.encode_latents(torch.randn(2, 4, 16, 16), 0.9).shape == (2, 128)
    assert scorer.guidance == latent.GUIDANCE
    # the same schedule of two steps, killed after the first
    made = tmp_path / "killed"
    made.mkdir()
    for name in ("latent_scenes", "latent_captions"):
        file = tmp_path / "whole" / f"{name}.safetensors"
        (made / file.name).write_bytes(file.read_bytes())
    rows = {
        **load_file(made / "latent_scenes.safetensors"),
        **load_file(made / "latent_captions.safetensors"),
    }
    settings = replace(latent.SETTINGS, steps=2, save_every=1)

    class Killed(Exception):
        pass

    def kill(_line: str) -> None:
        raise Killed

    with pytest.raises(Killed):  # the log comes after the first step, before its checkpoint
        TRAIN(rows, made / "latent", kill, replace(settings, log_every=2))
    assert (made / "latent" / "state.safetensors").exists()
    out = make(monkeypatch, made, 2)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_wrong_captions_are_wrong_in_one_thing() -> None:
    rng = Random(3)
    for seed in range(60):
        scene = sample_scene(seed)
        own, *wrong = latent.with_three_negatives(scene, rng)
        assert len(wrong) == 3
        assert all(one != own for one in wrong)
        if own.relation:
            assert wrong[0] in (swap(own, "relation"), swap(own, "order"))
        assert all(parse_caption(write_caption(one, rng)) == one for one in wrong)


def test_noise_keeps_the_variance_and_covers_all_levels() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = latent.draw_levels(4000, generator)
    assert 0 <= levels.min() < 0.1
    assert 0.99 < levels.max() <= 1
    angles = levels.asin() * 2 / math.pi
    assert abs(float((angles > 0.6).float().mean()) - 0.62) < 0.05  # 0.4 uniform, 0.86 around
    x, noise = torch.randn((2, 64, 4, 16, 16), generator=generator)
    seen = latent.noisy(x, levels[:64], noise)
    assert abs(float(seen.std()) - 1) < 0.02
    assert latent.noisy(x, torch.zeros(64), noise).equal(x)
    assert torch.allclose(latent.noisy(x, torch.ones(64), noise), noise)


def test_losses_are_those_of_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "BATCH", 3)
    monkeypatch.setattr(latent, "WRONG", 1)
    generator = torch.Generator().manual_seed(1)

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn((*shape, 8), generator=generator), dim=-1)

    found, texts, seen = unit(4), unit(3, 4), unit(3)
    scale = torch.tensor([2.0, 5.0, 9.0])
    parts = latent.losses(found, texts, scale, seen)
    contrast = swaps = 0.0
    for i in range(3):
        every = [texts[j, 0] for j in range(3)] + [texts[j, k] for j in range(3) for k in (1, 2, 3)]
        odds = [float((scale[i] * found[i] @ text).exp()) for text in every]
        shown = [float((scale[j % 3] * texts[i, 0] @ found[j]).exp()) for j in range(4)]
        contrast -= (math.log(odds[i] / sum(odds)) + math.log(shown[i] / sum(shown))) / 6
        mine = [float((scale[i] * found[i] @ texts[i, k]).exp()) for k in range(4)]
        swaps -= math.log(mine[0] / sum(mine)) / 3
    pair = [float((scale[0] * found[j] @ texts[0, 0]).exp()) for j in (0, 3)]
    assert parts["contrast"].item() == pytest.approx(contrast, rel=1e-5)
    assert parts["swaps"].item() == pytest.approx(swaps, rel=1e-5)
    assert parts["doubles"].item() == pytest.approx(-math.log(pair[0] / sum(pair)), rel=1e-5)
    cosines = [float(found[i] @ seen[i]) for i in range(3)]
    assert parts["distilled"].item() == pytest.approx(1 - sum(cosines) / 3, rel=1e-5)


@pytest.fixture(scope="module")
def bundled(starter_assets: Path) -> LatentScorer:
    scorer = load_scorer("starter:latent")
    assert isinstance(scorer, LatentScorer)
    return scorer


def test_the_bundled_file_is_small_and_of_the_starters_latents(
    bundled: LatentScorer, starter_assets: Path
) -> None:
    assert (starter_assets / "latent" / "model.safetensors").stat().st_size <= 2_000_000
    bundled.check_autoencoder(clipguide.load_starter().vae)
    with pytest.raises(ValueError, match="got latents of another autoencoder"):
        bundled.check_autoencoder(load_starter_decoder())
    assert bundled.teacher == "starter"
    assert bundled.guidance == latent.GUIDANCE


@torch.no_grad()
def test_the_bundled_tower_reads_word_order_through_noise(bundled: LatentScorer) -> None:
    vae = clipguide.load_starter().vae
    rng, generator = Random(5), torch.Generator().manual_seed(0)
    scenes = [sample_scene(810_000 + i, count=2) for i in range(100)]
    specs = [spec_of(scene, rng, relation=1.0) for scene in scenes]
    pictures = torch.cat([to_tensor(render(scene)) for scene in scenes])
    x0 = vae.encode(pictures * 2 - 1).latents * float(vae.config.scaling_factor)
    noise = torch.randn(x0.shape, generator=generator)
    for level, least in ((0.0, 0.9), (0.5, 0.9), (0.85, 0.9), (0.95, 0.75)):
        x = latent.noisy(x0, torch.full((len(x0),), level), noise)
        found = swap_accuracy(bundled.encode_latents(x, level), specs, bundled.encode_text)
        assert min(found.values()) >= least, (level, found)


def test_the_command_line_searches_by_it_and_the_teacher_scores_the_pictures(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    prompt = "a red star left of a blue ring"
    base = ["generate", prompt, "--scorer", "starter:latent", "--steps", 4, "--out", tmp_path]
    done = cli(*base, "--json")
    assert done.code == 0, done.err
    (path,) = tmp_path.glob("0000-*.png")
    (row,) = json.loads(done.out)["results"]
    with Image.open(path) as picture:
        expected = float(load_scorer("starter").score([picture], [prompt]))
    assert row["models"]["scorer"]["name"] == "starter:latent"
    assert row["scores"][0]["scorer"] == "starter"
    assert row["scores"][0]["value"] == pytest.approx(expected, abs=1e-5)
    again = cli("reproduce", path)
    assert again.code == 0
    assert "identical" in again.out
