"""The scorer's door, its batching and its cache; conventions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip_dir
from torch import Tensor

from clipguide.clip import scorer as scorer_module
from clipguide.clip.conventions import CONVENTIONS, Score, convert
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.images import ImageError, to_pil, to_tensor


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return load_scorer(tiny_clip_dir(tmp_path_factory.mktemp("tiny_clip")))


@pytest.fixture
def images() -> Tensor:
    """Three images whose values are whole 255ths."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, 40, 56), generator=generator).float() / 255


def test_tensor_pil_and_path_score_the_same(scorer: Scorer, images: Tensor, tmp_path: Path) -> None:
    pictures = to_pil(images)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = scorer.encode_image(images)
    assert torch.allclose(expected.norm(dim=1), torch.ones(3), atol=1e-6)
    for same in (pictures, paths, [pictures[0], str(paths[1]), paths[2]]):
        assert torch.allclose(scorer.encode_image(same), expected, atol=1e-6)
    assert torch.allclose(scorer.encode_image(pictures[1]), expected[1:2], atol=1e-6)


def test_score_is_the_diagonal_of_similarity(scorer: Scorer, images: Tensor) -> None:
    prompts = ["a fox", "a cat", "two dogs"]
    table = scorer.similarity(images, prompts)
    assert table.shape == (3, 3)
    assert torch.allclose(scorer.score(images, prompts), table.diagonal(), atol=1e-6)
    assert torch.allclose(scorer.score(images, "a cat"), table[:, 1], atol=1e-6)
    truth = scorer.encode_image(images).double() @ scorer.encode_text(prompts).double().T
    assert torch.allclose(table.double(), truth, atol=1e-6)


@pytest.mark.parametrize("match", ["pil", "smooth"])
def test_batch_equals_single(scorer: Scorer, images: Tensor, match: str) -> None:
    many = images.repeat(15, 1, 1, 1)  # more than BATCH_SIZE
    together = scorer.encode_image(many, match=match)  # type: ignore[arg-type]
    for index in (0, 31, 32, 44):
        alone = scorer.encode_image(many[index : index + 1], match=match)  # type: ignore[arg-type]
        assert torch.allclose(together[index], alone[0], atol=1e-6)


def test_gradient_reaches_a_tensor_and_no_weight(scorer: Scorer, images: Tensor) -> None:
    x = images.requires_grad_()
    for match in ("pil", "smooth"):
        (gradient,) = torch.autograd.grad(scorer.encode_image(x, match=match).sum(), x)  # type: ignore[arg-type]
        assert bool(gradient.isfinite().all())
        assert bool((gradient != 0).any())
    assert not any(p.requires_grad for p in scorer.model.module.parameters())
    assert not scorer.model.module.training
    assert not scorer.encode_text("a fox").requires_grad
    assert not scorer.encode_image(to_pil(images)).requires_grad


def test_smooth_gradient_against_finite_differences(tmp_path: Path) -> None:
    """In float64 through preprocess and tower; unit vectors are float32, so the step is wide."""
    scorer = load_scorer(tiny_clip_dir(tmp_path, image_size=16))
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(1, 3, 20, 20, generator=generator, requires_grad=True)
    direction = torch.randn(1, 3, 20, 20, generator=generator)

    def along(step: float) -> Tensor:
        moved = x + step * direction
        return (scorer.encode_image(moved, match="smooth") * scorer.encode_text("a fox")).sum()

    (gradient,) = torch.autograd.grad(along(0.0), x)
    step = 1e-3
    slope = float((along(step) - along(-step)).detach()) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2, abs=1e-4)


def test_prompts_are_encoded_once(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    encode: Callable[[list[str]], Tensor] = scorer.model.encode_text
    monkeypatch.setattr(
        scorer.model,
        "encode_text",
        lambda prompts: (seen.append(list(prompts)), encode(prompts))[1],
    )
    first = scorer.encode_text(["one", "two", "one"])
    again = scorer.encode_text(["two", "three", "one"])
    assert seen == [["one", "two"], ["three"]]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], again[0])


def test_cache_of_prompts_is_bounded(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer_module, "TEXT_CACHE", 4)
    prompts = [f"prompt {index}" for index in range(40)]
    vectors = scorer.encode_text(prompts)
    assert vectors.shape == (40, 16)
    assert len(scorer._texts) == 4
    assert torch.allclose(scorer.encode_text("prompt 0"), vectors[:1], atol=1e-6)


def test_what_cannot_be_scored_is_refused(scorer: Scorer, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got an empty prompt at position 1"):
        scorer.score(images, ["a", " \n", "b"])
    with pytest.raises(ValueError, match="got 3 images and 2 prompts"):
        scorer.score(images, ["a", "b"])
    with pytest.raises(ValueError, match="got no prompts"):
        scorer.similarity(images, [])
    with pytest.raises(ValueError, match="got int as prompt 0"):
        scorer.encode_text([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="got prompts of type int"):
        scorer.score(images, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got images of type \w*iterator"):
        scorer.score(iter(images), "a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got no images"):
        scorer.encode_image([])
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        scorer.encode_image(images * 255)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        scorer.encode_image(images[0], match="smooth")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"a\.png: not an image"):
        scorer.score([tmp_path / "a.png"], "a fox")


def test_content_hash_is_of_the_weights(scorer: Scorer, tmp_path: Path) -> None:
    same = load_scorer(tiny_clip_dir(tmp_path / "same"))
    other = load_scorer(tiny_clip_dir(tmp_path / "other", seed=1))
    assert len(scorer.content_hash) == 64
    assert same.content_hash == scorer.content_hash
    assert other.content_hash != scorer.content_hash
    weights = same.model.module.state_dict()
    same._hash = None
    weights["logit_scale"].add_(1e-3)
    assert same.content_hash != scorer.content_hash


def test_to_a_device(scorer: Scorer, images: Tensor) -> None:
    assert load_scorer(scorer, device="cpu") is scorer
    assert scorer.device == torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("the rest needs a CUDA device")
    before = scorer.similarity(images, ["a fox", "a cat"])
    after = scorer.to("cuda").similarity(images, ["a fox", "a cat"])
    scorer.to("cpu")
    assert torch.allclose(before, after.cpu(), atol=1e-3)


def test_black_and_white_images_have_different_vectors(scorer: Scorer) -> None:
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("black", "white")]
    vectors = scorer.encode_image(to_tensor(pictures))
    assert float(vectors[0] @ vectors[1]) < 0.999


def test_conventions() -> None:
    cosines = torch.tensor([-0.2, 0.0, 0.31])
    expected = {
        "cosine": [-0.2, 0.0, 0.31],
        "clipscore": [0.0, 0.0, 0.775],
        "torchmetrics": [0.0, 0.0, 31.0],
        "logit": [-20.0, 0.0, 31.0],
    }
    assert [*CONVENTIONS] == [*expected]
    for name, values in expected.items():
        assert convert(cosines, name, 100.0).tolist() == pytest.approx(values)
    with pytest.raises(ValueError, match="got convention 'clip', expected one of"):
        convert(cosines, "clip", 100.0)


def test_a_score_carries_its_convention_and_model() -> None:
    score = Score(0.775, "clipscore", "starter")
    text = json.dumps(score.to_dict())
    assert json.loads(text) == {"value": 0.775, "convention": "clipscore", "scorer": "starter"}
