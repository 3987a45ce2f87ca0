"""Cross-encoders against their formulas by hand on the models' own raw logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_cross_encoders import WORDS, noise_pictures, tiny_blip, tiny_llava
from transformers import (
    AutoImageProcessor,
    BlipForImageTextRetrieval,
    LlavaForConditionalGeneration,
)

from clipguide import ClipReward, load_scorer, rerank
from clipguide.clip.cross_encoder import CrossEncoder
from clipguide.clip.cross_encoder_vqa import AnswerNotYesOrNo
from clipguide.clip.tokens import PromptTruncated

pytestmark = pytest.mark.filterwarnings("ignore::clipguide.clip.cross_encoder_vqa.AnswerNotYesOrNo")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return noise_pictures(tmp_path_factory.mktemp("pictures"))


def by_hand(folder: Path, file: Path, asked: list[str]) -> np.ndarray[Any, Any]:
    """The distribution of the next token: ids looked up word by word, 16 patches, exp / sum."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    pixels = AutoImageProcessor.from_pretrained(folder)(Image.open(file), return_tensors="pt")
    words = ["ASKED", ":", *["<image>"] * 16, *asked, "ANSWER", ":"]
    ids = torch.tensor([[WORDS.index(word) for word in words]])
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels["pixel_values"]).logits[0, -1]
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum()


ASKED = [
    "Does", "this", "figure", "show", "'", "a", "red", "star",
    "<unk>",  # '? is one to this tokenizer
    "Please", "answer", "yes", "or", "no", ".",
]  # fmt: skip


def test_vqascore_is_the_probability_of_every_yes(llava: Path, pictures: list[Path]) -> None:
    scorer = load_scorer(f"vqa:{llava}")
    assert isinstance(scorer, CrossEncoder)
    got = scorer.score(pictures, "a red star").tolist()
    for file, value in zip(pictures, got, strict=True):
        chances = by_hand(llava, file, ASKED)
        expected = sum(chances[WORDS.index(word)] for word in ("yes", "Yes", "YES"))
        assert value == pytest.approx(expected, abs=1e-6)
    assert got[0] != got[1]
    assert scorer.convention == (
        "vqascore: P(yes) to \"Does this figure show '{text}'? Please answer yes or no.\", yes is "
        '["yes", "Yes", "YES"], no is ["no", "No"]'
    )


def test_every_kind_of_image_is_the_same_image(llava: Path, pictures: list[Path]) -> None:
    scorer = load_scorer(f"vqa:{llava}")
    image = Image.open(pictures[0]).convert("RGB")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    values = [
        scorer.score(form, "a star") for form in (pictures[0], image, np.array(image), tensor)
    ]
    assert len({float(value) for value in values}) == 1
    table = scorer.similarity(pictures, ["a star", "a ring", "red"])
    assert table.shape == (2, 3)
    assert float(table[0, 0]) == float(values[0])


def test_a_model_that_answers_something_else_is_said(llava: Path, pictures: list[Path]) -> None:
    scorer = load_scorer(f"vqa:{llava}")
    with pytest.warns(AnswerNotYesOrNo, match="answers yes or no with [0-9]+ % only"):
        scorer.similarity(pictures, ["a red star", "a ring", "blue"])


def test_a_special_token_in_a_text_is_no_second_picture(llava: Path, pictures: list[Path]) -> None:
    with pytest.raises(ValueError, match="got '<image>' in a text"):
        load_scorer(f"vqa:{llava}").score(pictures, "a <image> star")


def test_itm_is_the_softmax_of_the_head(blip: Path, pictures: list[Path]) -> None:
    scorer = load_scorer(f"itm:{blip}")
    model = BlipForImageTextRetrieval.from_pretrained(blip).eval()
    processor = AutoImageProcessor.from_pretrained(blip)
    ids = torch.tensor([[WORDS.index(w) for w in ("[CLS]", "a", "red", "star", "[SEP]")]])
    values = scorer.score(pictures, ["a red star", "a red star"]).tolist()
    for file, value in zip(pictures, values, strict=True):
        pixels = processor(Image.open(file), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            other, match = model(input_ids=ids, pixel_values=pixels).itm_score[0].double().tolist()
        assert value == pytest.approx(1 / (1 + np.exp(other - match)), abs=1e-6)
    assert scorer.convention.startswith("itm: softmax of the matching head")
    with pytest.warns(PromptTruncated, match="got 32 tokens, kept 24"):
        scorer.score(pictures[0], "star " * 30)


def test_cross_encoders_rank_and_score_from_the_command_line(
    blip: Path, llava: Path, pictures: list[Path], cli: Any
) -> None:
    for name in (f"itm:{blip}", f"vqa:{llava}"):
        scorer = load_scorer(name)
        expected = scorer.score(pictures, "a red star").tolist()
        found = cli("score", *pictures, "--prompt", "a red star", "--scorer", name, "--json")
        assert found.code == 0, found.err
        rows = found.data["results"]
        assert [row["value"] for row in rows] == pytest.approx(expected)
        assert {row["convention"] for row in rows} == {scorer.convention}
        ranked = rerank([str(file) for file in pictures], "a red star", scorer)
        assert [row.score for row in ranked] == sorted(expected, reverse=True)
        said = cli(
            "score", *pictures, "--prompt", "a", "--scorer", name, "--convention", "clipscore"
        )
        assert said.code == 2
        assert "got convention 'clipscore', expected none" in said.err


def test_guidance_and_what_needs_vectors_refuse_a_cross_encoder(
    blip: Path, pictures: list[Path], cli: Any, tmp_path: Path
) -> None:
    scorer = load_scorer(f"itm:{blip}")
    refusals = [
        lambda: ClipReward(scorer, "a star"),
        lambda: ClipReward(f"itm:{blip}", "a star"),
        lambda: scorer.encode_image(pictures),
        lambda: scorer.encode_text("a star"),
        lambda: scorer.embed_dim,
    ]
    for refused in refusals:
        with pytest.raises(ValueError, match="is a cross-encoder, which has no vectors"):
            refused()
    made = cli("generate", "a red star", "--scorer", f"itm:{blip}", "--out", tmp_path / "out")
    assert made.code == 2
    assert "expected a CLIP: a cross-encoder has no gradients and is given as --judge" in made.err
    assert len(made.err.strip().splitlines()) == 1
    sorted_ = cli("classify", *pictures, "--labels", "star,ring", "--scorer", f"itm:{blip}")
    assert sorted_.code == 2
    assert "is a cross-encoder" in sorted_.err


def test_models_that_are_no_cross_encoders_are_refused(
    blip: Path, llava: Path, clip_dir: Path, tmp_path: Path
) -> None:
    silent = tuple("maybe" if word.lower() == "yes" else word for word in WORDS)
    mute = tiny_llava(tmp_path / "mute", silent)
    plain = tiny_llava(tmp_path / "plain", chat=None)
    cases = {
        f"vqa:{mute}": "without a token for 'yes'",
        f"vqa:{plain}": "without a chat template",
        f"vqa:{clip_dir}": "cannot be loaded",
        f"itm:{clip_dir}": "got a model of type 'clip', expected 'blip'",
        f"itm:{llava}": "got a model of type 'llava', expected 'blip'",
        "itm:": "got no model after the colon",
        "vqa:/not/here": "got no folder /not/here",
        "vqa:nobody/nothing": "cannot be loaded",
    }
    for name, reason in cases.items():
        with pytest.raises(ValueError, match=reason) as caught:
            load_scorer(name)
        assert "\n" not in str(caught.value)
