"""Adapters against the libraries' own forward, and loading by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_clip import CLIPImageProcessorPil, SiglipImageProcessorPil, tiny_tokenizer
from torch import Tensor
from transformers import (
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipModel,
)

from clipguide.clip.loading import load_scorer
from clipguide.clip.tokens import PromptTruncated

PROMPTS = ["a red fox", "two dogs on the beach", "x", "a photo of a cat, sleeping"]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three PNGs of different sizes."""
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, size in zip(paths, [(50, 31), (32, 32), (40, 77)], strict=True):
        Image.effect_noise(size, 90).convert("RGB").save(path)
    return paths


def _unit(features: Any) -> Tensor:
    vectors = getattr(features, "pooler_output", features)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _transformers_cosines(folder: Path, paths: list[Path], prompts: list[str]) -> Tensor:
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(
        [Image.open(path) for path in paths], return_tensors="pt"
    )
    tokens = CLIPTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()


def test_equal_to_transformers(clip_dir: Path, pictures: list[Path]) -> None:
    truth = _transformers_cosines(clip_dir, pictures, PROMPTS)
    scorer = load_scorer(f"hf:{clip_dir}")
    assert torch.allclose(scorer.similarity(pictures, PROMPTS), truth, atol=1e-5)
    assert torch.allclose(scorer.score(pictures, PROMPTS[:3]), truth.diagonal(), atol=1e-5)
    model = CLIPModel.from_pretrained(clip_dir)
    assert scorer.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert (scorer.context_length, scorer.embed_dim) == (77, 16)


def _open_clip_cosines(model: Any, transform: Any, tokenizer: Any, paths: list[Path]) -> Tensor:
    pixels = torch.stack([transform(Image.open(path)) for path in paths])
    with torch.no_grad():
        images = model.encode_image(pixels, normalize=True)
        return images @ model.encode_text(tokenizer(PROMPTS), normalize=True).T


def test_equal_to_open_clip(tiny_open_clip: str, pictures: list[Path], tmp_path: Path) -> None:
    torch.manual_seed(3)
    model, _, transform = open_clip.create_model_and_transforms(tiny_open_clip)
    file = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), file)
    tokenizer = open_clip.get_tokenizer(tiny_open_clip)
    truth = _open_clip_cosines(model.eval(), transform, tokenizer, pictures)
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/{file}")
    assert torch.allclose(scorer.similarity(pictures, PROMPTS), truth, atol=1e-5)
    assert scorer.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_random_open_clip_is_the_same_each_time(tiny_open_clip: str) -> None:
    state = torch.get_rng_state()
    first = load_scorer(f"open_clip:{tiny_open_clip}/random")
    assert torch.equal(torch.get_rng_state(), state)
    second = load_scorer(f"open_clip:{tiny_open_clip}/random")
    assert first.content_hash == second.content_hash


def test_flickr8k_scores_equal_the_libraries_own(
    shared_data: Path, clip_dir: Path, tiny_open_clip: str
) -> None:
    photos = sorted((shared_data / "flickr8k").rglob("*.jpg"))[:8]
    truth = _transformers_cosines(clip_dir, photos, PROMPTS)
    got = load_scorer(f"hf:{clip_dir}").similarity(photos, PROMPTS)
    assert float((got - truth).abs().max()) < 1e-5
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random")
    _, _, transform = open_clip.create_model_and_transforms(tiny_open_clip)
    tokenizer = open_clip.get_tokenizer(tiny_open_clip)
    truth = _open_clip_cosines(scorer.model.module, transform, tokenizer, photos)
    assert float((scorer.similarity(photos, PROMPTS) - truth).abs().max()) < 1e-5


def test_photos_of_odd_aspect_have_the_librarys_embedding(
    shared_data: Path, clip_dir: Path, tiny_open_clip: str
) -> None:
    """Cosine of 1 to 1e-4 against each library's own preprocessing and forward."""
    photos = sorted((shared_data / "photos_odd_aspect").rglob("*.jpg"))[::9]
    assert photos
    pictures = [Image.open(photo).convert("RGB") for photo in photos]
    hugging = load_scorer(f"hf:{clip_dir}")
    pixels = CLIPImageProcessorPil.from_pretrained(clip_dir)(pictures, return_tensors="pt")
    with torch.no_grad():
        theirs = _unit(CLIPModel.from_pretrained(clip_dir).eval().get_image_features(**pixels))
    assert float((1 - (hugging.encode_image(photos) * theirs).sum(-1)).abs().max()) < 1e-4
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random")
    _, _, transform = open_clip.create_model_and_transforms(tiny_open_clip)
    with torch.no_grad():
        pixels = torch.stack([transform(picture) for picture in pictures])
        theirs = _unit(scorer.model.module.encode_image(pixels))
    assert float((1 - (scorer.encode_image(photos) * theirs).sum(-1)).abs().max()) < 1e-4


@pytest.fixture(scope="session")
def siglip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("siglip")
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    tokenizer = tiny_tokenizer(24)
    config = SiglipConfig(
        text_config={
            **tower,
            "num_hidden_layers": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 24,
            "projection_size": 32,
        },
        vision_config={**tower, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SiglipModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def test_siglip(siglip_dir: Path, pictures: list[Path]) -> None:
    """SigLIP squashes its images and reads the padding of its prompts."""
    scorer = load_scorer(siglip_dir)
    assert (scorer.preprocess.resize, scorer.context_length) == ("squash", 24)
    model = SiglipModel.from_pretrained(siglip_dir).eval()
    processor = SiglipImageProcessorPil.from_pretrained(siglip_dir)
    pixels = processor([Image.open(path) for path in pictures], return_tensors="pt")
    tokens = tiny_tokenizer(24)(["a fox", "x"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        truth = model(input_ids=tokens["input_ids"], **pixels).logits_per_image
    truth = (truth - model.logit_bias) / model.logit_scale.exp()
    assert torch.allclose(scorer.similarity(pictures, ["a fox", "x"]), truth, atol=1e-5)


LONG = "a photograph of " + "a very " * 30 + "old dog"


def test_long_prompt_keeps_its_end_token(clip_dir: Path) -> None:
    scorer = load_scorer(clip_dir)
    tokenizer = CLIPTokenizer.from_pretrained(clip_dir)
    whole = tokenizer(LONG)["input_ids"]
    with pytest.warns(PromptTruncated, match=f"got {len(whole)} tokens, kept 77"):
        got = scorer.encode_text(LONG)
    kept = torch.tensor([[*whole[:76], tokenizer.eos_token_id]])
    with torch.no_grad():
        truth = _unit(CLIPModel.from_pretrained(clip_dir).eval().get_text_features(kept))
        cut = _unit(scorer.model.module.get_text_features(torch.tensor([whole[:77]])))
    assert torch.allclose(got, truth, atol=1e-6)
    assert float((got * cut).sum()) < 0.99  # without the end token it is another vector


def test_long_prompt_in_open_clip(tiny_open_clip: str) -> None:
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random")
    tokenizer = open_clip.get_tokenizer(tiny_open_clip)
    words = "fox " * 100  # a token each
    with pytest.warns(PromptTruncated, match="got 102 tokens, kept 77"):
        got = scorer.encode_text(words)
    with torch.no_grad():
        model: Any = scorer.model.module
        truth = model.encode_text(tokenizer(["fox " * 75]), normalize=True)
    assert torch.allclose(got, truth, atol=1e-6)


@pytest.mark.parametrize("words", [75, 76])
def test_warning_begins_at_the_first_token_too_many(
    tiny_open_clip: str, clip_dir: Path, words: int
) -> None:
    for name, text in (
        (f"open_clip:{tiny_open_clip}/random", "fox " * words),
        (clip_dir, "f " * words),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_scorer(name).encode_text(text)
        cut = [w for w in caught if issubclass(w.category, PromptTruncated)]
        assert len(cut) == (words > 75)


def test_half_precision_is_close(clip_dir: Path, pictures: list[Path]) -> None:
    exact = load_scorer(clip_dir).similarity(pictures, PROMPTS)
    for dtype in (torch.bfloat16, torch.float16):
        got = load_scorer(clip_dir, dtype=dtype).similarity(pictures, PROMPTS)
        assert got.dtype == torch.float32
        assert float((got - exact).abs().max()) < 5e-2
