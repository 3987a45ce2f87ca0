"""Figures by noise level, against slow versions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from clipguide.evaluation.latent_noise import (
    BATCH,
    Held,
    blurred,
    decoded,
    gradient_by_noise,
    recall_by_noise,
)
from tests.tiny_backbones import toy_captions
from tests.tiny_clip import tiny_clip_dir


def held(count: int = 40) -> Held:
    torch.manual_seed(0)
    latents = torch.randn(count, 2, 3, 3)
    texts = functional.normalize(torch.randn(2 * count, 18), dim=1)
    return Held(latents, texts, torch.arange(count).repeat_interleave(2), seed=5)


def test_recall_of_noisy_latents() -> None:
    """Latents are their own vectors: noise is all that parts them from their captions."""
    base = held()
    own = functional.normalize(base.latents.flatten(1), dim=1)
    texts = own.repeat_interleave(2, dim=0)
    given = Held(base.latents, texts, base.owners, seed=5)
    found = recall_by_noise(
        given, lambda x, _: functional.normalize(x.flatten(1), dim=1), (0.0, 0.9, 1.0)
    )
    source = torch.Generator().manual_seed(5)
    noise = torch.cat([torch.randn(p.shape, generator=source) for p in base.latents.split(BATCH)])
    for level, value in found.items():
        noisy = math.sqrt(1 - level**2) * base.latents + level * noise
        vectors = functional.normalize(noisy.flatten(1), dim=1)
        ranks = [(vectors @ t).argsort(descending=True)[:10].tolist() for t in texts]
        hits = [int(i) in row for i, row in zip(base.owners, ranks, strict=True)]
        assert value == pytest.approx(100 * sum(hits) / len(hits))
    assert found[0.0] == 100
    assert found[1.0] < found[0.9] < 100


def test_a_decoded_latent_is_brought_back_to_its_signal() -> None:
    encode = decoded(lambda z: z * 2, lambda images: images + 1)
    latents = torch.randn(2, 4, 3, 3)
    assert torch.allclose(encode(0.8 * latents, 0.6), latents * 2 + 1, atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (31, 45)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_blur_takes_its_share_of_the_variance(size: tuple[int, int], share: float) -> None:
    images = 0.25 + 0.5 * torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
    images[1] = images[1].cumsum(-1) / 60  # smooth: a wider blur is needed
    found = blurred(images, share)
    lost = (images - found).square().sum((1, 2, 3))
    variance = (images - images.mean((2, 3), keepdim=True)).square().sum((1, 2, 3))
    assert torch.allclose(lost / variance, torch.full((3,), share), atol=2e-3)
    assert torch.allclose(found.mean((2, 3)), images.mean((2, 3)), atol=1e-4)


def test_a_blur_is_a_gaussian() -> None:
    """Of an impulse far from the borders, by the values of the normal density."""
    image = torch.zeros(1, 3, 65, 65)
    image[..., 32, 32] = 1.0
    row = blurred(image, 0.9)[0, 0, 32]
    ratios = (row[32] / row[33:36]).log()  # x² / 2w²
    assert torch.allclose(ratios / ratios[0], torch.tensor([1.0, 4.0, 9.0]), rtol=1e-2)


def test_a_share_of_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        blurred(torch.rand(1, 3, 8, 8), 1.0)


def test_cosines_of_gradients() -> None:
    """Linear scores, whose gradients are known."""
    given, count = held(), 4
    first, second = torch.randn(18, 18), torch.randn(18, 18)
    found = gradient_by_noise(
        given, lambda x, level: x.flatten(1) @ (first + level * second),
        lambda z: z.flatten(1) @ first, (0.0, 0.5), count,
    )  # fmt: skip
    texts = given.texts[::2][:count]
    for level, value in found.items():
        pairs = [((first + level * second) @ t, first @ t) for t in texts]
        cosines = [float(a @ b / a.norm() / b.norm()) for a, b in pairs]
        assert value == pytest.approx(sum(cosines) / count, rel=1e-4)
    assert found[0.0] == pytest.approx(1.0)


def test_the_command(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """From pictures to a latent scorer to its table, on a few pictures."""
    from tests.tiny_distillation import tiny_autoencoder

    captions = toy_captions(tmp_path)
    tiny_clip_dir(tmp_path / "clip")
    tiny_autoencoder(tmp_path / "vae")
    split = ['captions = "captions.tsv"', 'images = "images"']
    lines = [
        'output = ""', "[data.train]", *split, "[data.dev]", *split, "[latent]",
        'teacher = "./clip"', 'autoencoder = "./vae"', "image_size = 64", "stem_width = 8",
        "stem_blocks = 1", "[train]", "stem_epochs = 1", "epochs = 1", "batch = 12",
    ]  # fmt: skip
    (tmp_path / "toy.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    output = tmp_path / "run"
    assert cli("train", str(tmp_path / "toy.toml"), "--set", f"output={output}").code == 0
    places = ["--captions", str(captions), "--images", str(tmp_path / "images"),
              "--autoencoder", str(tmp_path / "vae"), "--image-size", "64"]  # fmt: skip
    ours = [*places, "--scorer", str(output), "--levels", "0,.5"]
    done = cli("eval", "noise", *ours, "--teacher", "--gradients", "2", "--json")
    assert done.code == 0
    rows = {row["what"]: row["values"] for row in done.data["rows"]}
    assert [*rows] == ["latent scorer", "teacher on pixels", "teacher on decoded latents",
                       "teacher on blurred pictures", "cosine of gradients"]  # fmt: skip
    plain = cli("eval", "retrieval", *places[:4], "--scorer", str(tmp_path / "clip"), "--json")
    pixels = plain.data["text_to_image"]["R@10"]
    assert rows["teacher on pixels"]["0.0"] == pytest.approx(pixels, abs=0.01)
    assert rows["teacher on blurred pictures"]["0.0"] == pytest.approx(pixels, abs=0.01)
    results = (output / "results.json").read_text()
    assert f'"R@10 sigma_bar 0": {rows["latent scorer"]["0.0"]}' in results
    shown = cli("eval", "noise", *ours)
    assert shown.code == 0
    assert "sigma_bar" in shown.out.splitlines()[0]
    refused = cli("eval", "noise", *places, "--scorer", str(tmp_path / "clip"))
    assert refused.code == 2
    assert "which reads images" in refused.err
    assert cli("eval", "noise", *ours, "--levels", "0,2").code == 2
    tiny_autoencoder(tmp_path / "vae", seed=1)  # other weights in its place
    other = cli("eval", "noise", *ours)
    assert other.code == 2
    assert "latents of another autoencoder" in other.err
    assert "--force" in other.err
    assert cli("eval", "noise", *ours, "--force").code == 0
