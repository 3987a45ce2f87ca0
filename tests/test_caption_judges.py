"""Captioners as judges: their numbers by hand from the captioner's own, and what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_captioners import tiny_git
from tiny_cross_encoders import noise_pictures

from clipguide import ClipReward, load_scorer, rerank
from clipguide.clip.cross_encoder import CrossEncoder
from clipguide.language.judges import CAPTIONS
from clipguide.language.loading import load_captioner

pytestmark = pytest.mark.filterwarnings("ignore::clipguide.language.captioner.DoubtfulCaption")


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_git(tmp_path_factory.mktemp("git"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return noise_pictures(tmp_path_factory.mktemp("pictures"))


def test_caption_back_is_the_largest_cosine_of_its_captions(
    git: Path, pictures: list[Path], clip_dir: Path
) -> None:
    judge = load_scorer(f"caption-back:{git}@hf:{clip_dir}")
    assert isinstance(judge, CrossEncoder)
    assert judge.convention.startswith("caption-back: largest cosine of the text and one of 3")
    scorer, captioner = load_scorer(clip_dir), load_captioner(git)
    found = judge.similarity(pictures, ["a red star", "a blue ring"])
    for row, picture in enumerate(pictures):
        texts = [one.text for one in captioner.caption([picture], CAPTIONS)[0]]
        vectors = scorer.encode_text(texts)
        for column, text in enumerate(["a red star", "a blue ring"]):
            wanted = float((vectors @ scorer.encode_text([text])[0]).max())
            assert float(found[row, column]) == pytest.approx(wanted, abs=1e-5)


def test_a_transformers_text_encoder_is_the_mean_of_its_tokens(
    git: Path, pictures: list[Path], toys: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    judge = load_scorer(f"caption-back:{git}@{toys / 'text'}")
    texts = [one.text for one in load_captioner(git).caption([pictures[0]], CAPTIONS)[0]]
    model = AutoModel.from_pretrained(toys / "text").eval()
    tokenizer = AutoTokenizer.from_pretrained(toys / "text")
    vectors = []
    for text in ["a red ball", *texts]:  # one at a time, nothing padded
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(states.mean(dim=0) / states.mean(dim=0).norm())
    wanted = max(float(vectors[0] @ one) for one in vectors[1:])
    assert float(judge.score(pictures[:1], "a red ball")) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_log_prob_is_the_papers_difference(git: Path, pictures: list[Path], alpha: float) -> None:
    judge = load_scorer(f"log-prob:{git}@{alpha}")
    captioner, text = load_captioner(git), "a red star"
    found = captioner.log_prob(pictures, text)
    source = torch.Generator().manual_seed(0)
    noise = (torch.randn(3, 224, 224, 3, generator=source) * 0.25 + 0.4).clamp(0, 1)
    grey = [Image.fromarray((one * 255).byte().numpy()) for one in noise]
    chances = [math.exp(float(v)) for v in captioner.log_prob(grey, text).sentence.double()]
    prior = math.log(sum(chances) / 3)
    wanted = (found.sentence - alpha * prior) / 4  # three words and the end
    assert torch.allclose(judge.score(pictures, text), wanted, atol=1e-4)


def test_they_rank_and_say_that_they_do_not_guide(
    git: Path, pictures: list[Path], cli: Callable[..., Outcome]
) -> None:
    name = f"log-prob:{git}"
    judge = load_scorer(name)
    ranked = rerank(pictures, "a red star", judge)
    assert ranked[0].score >= ranked[1].score
    with pytest.raises(ValueError, match="no vectors and no gradients"):
        ClipReward(judge, "a red star")(torch.rand(1, 3, 32, 32))
    done = cli("score", *pictures, "--prompt", "a red star", "--scorer", name, "--json")
    assert done.data["convention"].startswith("log-prob: (log p(text | image) - 1 log p(text))")
    values = [row["value"] for row in done.data["results"]]
    assert values == pytest.approx(judge.score(pictures, "a red star").tolist(), abs=1e-5)


def test_agreement_with_people_takes_a_judge(
    git: Path, pictures: list[Path], cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    captions = {"a.png": ["a red star"], "b.png": ["a blue ring"]}
    (tmp_path / "c.json").write_text(json.dumps(captions))
    rows = ["image\tcaption_image\tcaption_index\trating1\trating2\trating3"]
    rows += ["a.png\tb.png\t0\t1\t1\t2", "b.png\ta.png\t0\t3\t4\t3"]
    (tmp_path / "r.tsv").write_text("\n".join(rows) + "\n")
    done = cli(
        "eval", "agreement", "--ratings", tmp_path / "r.tsv", "--captions", tmp_path / "c.json",
        "--images", pictures[0].parent, "--scorer", f"log-prob:{git}@0", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (measure,) = done.data["measures"]
    judge = load_scorer(f"log-prob:{git}@0")
    first, second = judge.score(pictures, ["a blue ring", "a red star"]).tolist()
    assert measure["ratings"] == 6
    assert (measure["tau_c"] > 0) == (second > first)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("log-prob:{git}@2", "got alpha 2.0, expected 0 to 1"),
        ("log-prob:nothing", "got captioner 'nothing', expected starter, hf:"),
        ("caption-back:{git}@/no/where", "got no folder /no/where"),
    ],
)
def test_mistakes_are_named(git: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        load_scorer(name.format(git=git))
