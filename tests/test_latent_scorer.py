"""The CLIP that reads noisy latents: its numbers, what it refuses, its files."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.latent_clip import LatentClip, LatentClipConfig
from clipguide.clip.latent_files import CONFIG, WEIGHTS, save_latent_clip
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.clip.latent_space import hash_autoencoder, hashes_of, is_of
from clipguide.clip.latent_vit import LatentVit, LatentVitShape, resized_positions
from clipguide.clip.loading import load_scorer
from clipguide.clip.noise_level import NoiseScale, noise_angle, sigma_of_angle

SHAPE = LatentVitShape(channels=4, grid=4, patch=2, width=16, layers=2, heads=2)
PROMPTS = ["a red star", "a blue ring"]


@pytest.fixture
def autoencoder() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1))


def latent_clip(autoencoder: nn.Module, name: str = "tiny") -> LatentClip:
    """Random weights, none of them zero, on the starter's text tower."""
    torch.manual_seed(0)
    teacher = load_scorer("starter")
    hashes = {"name": "tiny", **hashes_of(autoencoder)}
    config = LatentClipConfig(
        "starter", teacher.content_hash, hashes, {"strength": 12.0}, {"data": "none"}, {"R@10": 1.0}
    )
    model = LatentClip(name, LatentVit(SHAPE), NoiseScale(), teacher, config)
    for part in (model.tower, model.scale):
        for weight in part.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.2)
    return model


@pytest.fixture
def scorer(autoencoder: nn.Module) -> LatentScorer:
    return LatentScorer(latent_clip(autoencoder))


def latents(count: int = 2, height: int = 8, width: int = 8) -> Tensor:
    return torch.randn((count, 4, height, width), generator=torch.Generator().manual_seed(2))


def test_cosines_are_those_of_the_towers(scorer: LatentScorer) -> None:
    x, level = latents(), torch.tensor([0.3, 0.9])
    vectors = scorer.encode_latents(x, level)
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-6)
    texts = load_scorer("starter").encode_text(PROMPTS)
    assert scorer.encode_text(PROMPTS).equal(texts)
    pairs = scorer.similarity_latents(x, level, PROMPTS)
    assert torch.allclose(pairs, vectors @ texts.T, atol=1e-6)
    assert torch.allclose(scorer.score_latents(x, level, PROMPTS), pairs.diagonal(), atol=1e-6)
    one = torch.cat([scorer.encode_latents(x[i : i + 1], float(level[i])) for i in range(2)])
    assert torch.allclose(one, vectors, atol=1e-6)


def test_noise_level_is_read(scorer: LatentScorer) -> None:
    x = latents()
    assert not torch.allclose(scorer.encode_latents(x, 0.2), scorer.encode_latents(x, 0.6))
    scales = scorer.scale_at(torch.tensor([0.0, 0.5, 1.0]))
    assert scales.shape == (3,)
    assert bool((scales > 0).all())
    assert len(set(scales.tolist())) == 3
    assert scorer.scale_at(0.5).shape == ()
    assert scorer.scale_at(0.5).item() == scales[1].item()
    assert scorer.logit_scale == scales[0].item()


def test_angles_and_back() -> None:
    level = torch.linspace(0, 1, 11, dtype=torch.float64)
    assert torch.allclose(sigma_of_angle(noise_angle(level)), level)
    assert torch.allclose(
        noise_angle(torch.tensor([0.0, 0.5**0.5, 1.0])), torch.tensor([0, 0.5, 1])
    )


def test_gradient_is_that_of_central_differences(autoencoder: nn.Module) -> None:
    scorer = LatentScorer(latent_clip(autoencoder).double())
    level = torch.tensor([0.4, 0.8], dtype=torch.float64)
    x = latents(2, 4, 4).double().requires_grad_()

    def value(given: Tensor) -> Tensor:
        return scorer.similarity_latents(given, level, PROMPTS)[:, 0].sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    step, flat = 1e-5, x.detach().flatten()
    found = torch.zeros_like(flat)
    for i in range(len(flat)):
        move = torch.zeros_like(flat)
        move[i] = step
        found[i] = value((flat + move).view_as(x)) - value((flat - move).view_as(x))
    found = (found / (2 * step)).view_as(x)
    assert gradient.abs().max() > 1e-3
    assert (gradient - found).abs().max() < 1e-8


def test_any_size_is_read_by_interpolated_positions(scorer: LatentScorer) -> None:
    positions = torch.randn(1, 3, 4, 4)
    assert resized_positions(positions, (4, 4)) is positions
    expected = functional.interpolate(positions, (2, 6), mode="bicubic", align_corners=False)
    assert resized_positions(positions, (2, 6)).equal(expected)
    for height, width in ((4, 12), (16, 8), (32, 32)):
        assert scorer.encode_latents(latents(1, height, width), 0.5).shape == (1, 128)


@pytest.mark.parametrize(
    ("x", "level", "message"),
    [
        (torch.zeros(2, 3, 8, 8), 0.5, r"got latents \(2, 3, 8, 8\), expected \(B, 4, h, w\)"),
        (torch.zeros(4, 8, 8), 0.5, r"got latents \(4, 8, 8\), expected \(B, 4, h, w\)"),
        (torch.zeros(0, 4, 8, 8), 0.5, "expected"),
        (torch.zeros(1, 4, 7, 8), 0.5, "got latents of 7x8, expected multiples of 2"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.int64), 0.5, "expected floats"),
        (torch.zeros(1, 4, 8, 8), 1.5, r"got sigma_bar \[?1.5\]?, expected numbers from 0 to 1"),
        (torch.zeros(1, 4, 8, 8), float("nan"), "expected numbers from 0 to 1"),
        (torch.zeros(2, 4, 8, 8), torch.zeros(3), "got 3 noise levels, expected 1 or 2"),
        (torch.full((2, 4, 8, 8), torch.inf), 0.5, r"non-finite latents at \[0, 1\]"),
    ],
)
def test_what_is_no_noisy_latent_is_refused(
    scorer: LatentScorer, x: Tensor, level: float | Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scorer.encode_latents(x, level)


def test_a_broken_weight_is_named(scorer: LatentScorer) -> None:
    with torch.no_grad():
        scorer.model.module.get_parameter("tower.projection.weight")[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"non-finite weight tower\.projection\.weight"):
        scorer.encode_latents(latents(), 0.5)
    assert not scorer.encode_latents(latents(), 0.5, check=False).isfinite().all()


def test_images_are_refused_in_one_sentence(scorer: LatentScorer) -> None:
    images = torch.zeros(1, 3, 8, 8)
    refused = r"tiny: got images, expected latents: .*load_scorer\('starter'\)"
    for call in (scorer.score, scorer.similarity):
        with pytest.raises(ValueError, match=refused):
            call(images, "a red star")
    with pytest.raises(ValueError, match=refused):
        scorer.encode_image(images, match="smooth")
    with pytest.raises(ValueError, match=refused):
        _ = scorer.preprocess
    assert (scorer.reads, load_scorer("starter").reads) == ("latents", "images")


def test_saved_and_loaded_it_is_the_same(scorer: LatentScorer, tmp_path: Path) -> None:
    scorer.save_pretrained(tmp_path)
    loaded = load_scorer(tmp_path)
    assert isinstance(loaded, LatentScorer)
    assert loaded.encode_latents(latents(), 0.7).equal(scorer.encode_latents(latents(), 0.7))
    assert loaded.content_hash == scorer.content_hash
    assert loaded.guidance == {"strength": 12.0}
    assert loaded.teacher == "starter"
    assert (loaded.channels, loaded.embed_dim, loaded.context_length) == (4, 128, 28)
    assert not any(name.startswith("teacher") for name in load_file(tmp_path / WEIGHTS))


def test_half_the_bytes_in_half_precision(autoencoder: nn.Module, tmp_path: Path) -> None:
    model = latent_clip(autoencoder)
    save_latent_clip(model, tmp_path / "whole")
    save_latent_clip(model, tmp_path / "half", torch.float16)
    whole, half = (load_scorer(tmp_path / name) for name in ("whole", "half"))
    assert isinstance(whole, LatentScorer)
    assert isinstance(half, LatentScorer)
    close = half.encode_latents(latents(), 0.5) * whole.encode_latents(latents(), 0.5)
    assert close.sum(1).min() > 0.9999
    assert load_file(tmp_path / "half" / WEIGHTS)["tower.projection.weight"].dtype == torch.float16


def test_a_push_that_stays_here_writes_the_same_folder(
    scorer: LatentScorer, tmp_path: Path
) -> None:
    assert scorer.push_to_hub("me/tiny", dry_run=str(tmp_path / "dry")) == str(tmp_path / "dry")
    scorer.save_pretrained(tmp_path / "saved")
    for name in (CONFIG, WEIGHTS, "README.md"):
        assert (tmp_path / "dry" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes()
    card = (tmp_path / "dry" / "README.md").read_text()
    for word in ("`starter`", scorer.autoencoder, "sigma_bar", "Data: none", "| R@10 | 1 |"):
        assert word in card, word


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 9, "got version 9, expected 1"),
        ("teacher_hash", "0" * 64, "got teacher 'starter' with weights .*, expected 000000000000"),
        ("teacher", "nothing", "got scorer 'nothing', expected one of"),
        ("teacher", "starter:judge", "got teacher 'starter:judge' with weights"),
        ("tower", {"kind": "cnn"}, r"got a tower 'cnn', expected one of \['vit'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    scorer: LatentScorer, tmp_path: Path, key: str, value: object, message: str
) -> None:
    scorer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**settings, key: value}))
    with pytest.raises(ValueError, match=message):
        load_scorer(tmp_path)


def test_weights_that_do_not_fit_are_refused(scorer: LatentScorer, tmp_path: Path) -> None:
    scorer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    bad = {**weights, "tower.summary": torch.full_like(weights["tower.summary"], torch.nan)}
    less = {name: value for name, value in weights.items() if name != "tower.summary"}
    for given, message in (
        (bad, "non-finite weight tower.summary"),
        (less, "do not fit the tower"),
    ):
        save_file(given, tmp_path / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            load_scorer(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_scorer(tmp_path)


def test_the_autoencoder_is_known_in_every_precision(
    scorer: LatentScorer, autoencoder: nn.Module
) -> None:
    assert scorer.autoencoder == hash_autoencoder(autoencoder)
    for precision in (torch.float32, torch.float16, torch.bfloat16):
        scorer.check_autoencoder(copy.deepcopy(autoencoder).to(precision))
    half = copy.deepcopy(autoencoder).half()  # of a file in half precision, loaded in float32
    assert is_of(half.float(), hashes_of(autoencoder))
    with torch.no_grad():
        autoencoder.get_parameter("1.weight")[0] *= 1.1
    with pytest.raises(ValueError, match="got latents of another autoencoder, expected those of"):
        scorer.check_autoencoder(autoencoder)
    with pytest.raises(ValueError, match="got precision 'int8', expected one of"):
        hash_autoencoder(autoencoder, "int8")
