"""What a latent scorer is trained on and by: rows of photos, noise levels, losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from tiny_distillation import latent_toys, run_of, tiny_autoencoder
from torch.nn import functional

from clipguide.attach.decoders import DECODERS
from clipguide.clip.loading import load_scorer
from clipguide.clip.preprocess import Preprocess
from clipguide.images import load_image
from clipguide.training.autoencoders import encode_images, load_autoencoder
from clipguide.training.distillation import caption_loss, feature_loss, noise_levels
from clipguide.training.distillation_rows import latent_preprocess


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return latent_toys(tmp_path_factory.mktemp("toys"))


def test_the_rows_are_what_teacher_and_autoencoder_make(toys: Path, tmp_path: Path) -> None:
    run = run_of(toys, tmp_path / "run")
    photos, teacher = run.splits["train"], load_scorer(toys / "clip")
    assert photos.latents.shape == (2, 12, 4, 8, 8)
    assert photos.features is not None
    picture = load_image(photos.pairs.pictures[3].name)
    with torch.no_grad():
        expected = teacher.encode_image([picture])[0]
        pixels = teacher.preprocess.from_pil(picture)[None].float() / 255
        patches = teacher.model.module.get_submodule("vision_model.embeddings.patch_embedding")
        entry = patches(teacher.preprocess.normalize(pixels))[0]
        shown = picture.resize((round(40 * 64 / 36), 64), 3)
        left = (shown.width - 64) // 2
        values = torch.tensor([*shown.crop((left, 0, left + 64, 64)).tobytes()])
        image = values.view(64, 64, 3).permute(2, 0, 1)[None].float() / 255
        latents = run.autoencoder.get_submodule("encoder")(image)[0]
    assert torch.allclose(photos.vectors[0, 3], expected, atol=1e-5)
    assert torch.allclose(photos.features[0, 3].float(), entry, atol=1e-2)
    assert torch.allclose(photos.latents[0, 3].float(), latents, atol=1e-2)
    assert not torch.allclose(photos.vectors[1, 3], expected, atol=1e-3)  # another view
    texts = teacher.encode_text([*photos.pairs.captions])
    assert torch.allclose(photos.texts, texts, atol=1e-5)


@pytest.mark.parametrize("kind", ["factor", "shift", "channels", "tiny"])
def test_encoding_is_the_inverse_of_what_decoders_undo(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae: Any = load_autoencoder(str(tiny_autoencoder(tmp_path / "vae")))
    if kind != "tiny":
        statistics = {"latents_mean": [0.3] * 4, "latents_std": [1.7] * 4}
        made: Any = AutoencoderKL
        vae = made(
            block_out_channels=(8,), norm_num_groups=4, latent_channels=4,
            scaling_factor=0.3, shift_factor=0.2 if kind == "shift" else None,
            **(statistics if kind == "channels" else {}),
        ).eval()  # fmt: skip
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        encoded = vae.encode(images * 2 - 1)
        raw = encoded.latents if kind == "tiny" else encoded.latent_dist.mean
        row: Any = DECODERS[type(vae).__name__]
        assert torch.allclose(row.unscale(vae, encode_images(vae, images)), raw, atol=1e-5)


def test_the_same_part_of_a_picture_is_encoded() -> None:
    teacher = Preprocess((256, 256), (224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fill=7)
    shown = latent_preprocess(teacher, 448)
    assert (shown.size, shown.crop) == ((512, 512), (448, 448))
    for source in ((600, 800), (333, 500)):
        for small, large in zip(teacher.axes(source), shown.axes(source), strict=True):
            for a, b in zip(small.kept, large.kept, strict=True):
                assert abs(2 * a - b) <= 2


def test_losses_by_hand() -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    level = torch.tensor([0.0, 0.6, 1.0])
    weights = [1.05, 0.69, 0.05]
    errors = [float((predicted[i] - target[i]).pow(2).mean()) for i in range(3)]
    expected = sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights)
    assert float(feature_loss(predicted, target, level)) == pytest.approx(expected, rel=1e-5)
    vectors, texts, others = (functional.normalize(torch.randn(n, 8), dim=1) for n in (3, 3, 5))
    scale = torch.tensor([3.0, 5.0, 7.0])
    total = 0.0
    for i in range(3):
        to_text = [scale[i] * vectors[i] @ t for t in [*texts, *others]]
        to_image = [scale[j] * vectors[j] @ texts[i] for j in range(3)]
        for scores in (to_text, to_image):
            total -= float(scores[i] - torch.logsumexp(torch.stack(scores), dim=0)) / 6
    found = caption_loss(vectors, texts, others, scale)
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_noise_levels() -> None:
    levels = noise_levels(20_000, torch.Generator().manual_seed(0))
    assert float(levels.min()) >= 0
    assert float(levels.max()) <= 1
    even, middle = levels[::2], levels[1::2]
    shares = torch.histc(even, 5, 0, 1) / len(even)
    assert torch.allclose(shares, torch.full((5,), 0.2), atol=0.02)
    assert float(middle.median()) == pytest.approx(0.75, abs=0.01)
    assert torch.equal(levels, noise_levels(20_000, torch.Generator().manual_seed(0)))
