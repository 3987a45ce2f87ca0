"""Answers about pictures against the library's own logits, and what of a prompt is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_captioner_runs import toy_captioner
from tiny_captioners import tiny_vilt
from tiny_cross_encoders import CHAT, WORDS, tiny_llava
from transformers import AutoProcessor, LlavaForConditionalGeneration, ViltForQuestionAnswering

from clipguide.language.answers import PartAnswer, ask_prompt, load_answerer, sentence_of
from clipguide.language.captioner_files import save_captioner
from clipguide.language.loading import load_captioner

ASKED = "Is there in picture Answer with one of , yellow Does show left"
TALKING = tuple(dict.fromkeys([*WORDS, *ASKED.split()]))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("llava"), TALKING, CHAT)


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vilt(tmp_path_factory.mktemp("vilt"))


@pytest.fixture(scope="module")
def image() -> Image.Image:
    source = np.random.default_rng(0)
    return Image.fromarray(source.integers(256, size=(32, 32, 3), dtype=np.uint8))


def test_a_classifier_gives_the_softmax_over_the_answers_asked(
    vilt: Path, image: Image.Image
) -> None:
    (found,) = load_answerer(f"hf:{vilt}").answer([image], "Is there a red star ?", ["yes", "no"])
    model = ViltForQuestionAnswering.from_pretrained(vilt).eval()
    inputs = AutoProcessor.from_pretrained(vilt)(
        image, "Is there a red star ?", return_tensors="pt"
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    yes, no = float(logits[1].exp()), float(logits[0].exp())  # label2id: no 0, yes 1
    assert found.probabilities["yes"] == pytest.approx(yes / (yes + no), abs=1e-5)
    assert found.text == ("yes" if yes > no else "no")


def test_a_talking_model_gives_the_probability_of_what_it_would_say(
    llava: Path, image: Image.Image
) -> None:
    (found,) = load_answerer(str(llava)).answer([image], "Is there a red star ?", ["yes", "no"])
    model = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    pixels = AutoProcessor.from_pretrained(llava).image_processor(image, return_tensors="pt")
    asked = "Is there a red star ? Answer with one of : yes , no ."
    words = ["ASKED", ":", *["<image>"] * 16, *asked.split(), "ANSWER", ":"]
    begin = [TALKING.index(word) for word in words]
    powers = []
    for answer in ("yes", "no"):
        total, row = 0.0, list(begin)
        for token in (TALKING.index(answer), 2):  # Llama's end
            with torch.no_grad():
                ids = torch.tensor([row])
                logits = model(input_ids=ids, pixel_values=pixels["pixel_values"]).logits
            total += float(logits[0, -1].double().log_softmax(dim=-1)[token])
            row.append(token)
        powers.append(np.exp(total))
    assert found.probabilities["yes"] == pytest.approx(powers[0] / sum(powers), abs=1e-4)
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_a_prompt_is_taken_apart(vilt: Path, image: Image.Image) -> None:
    answerer = load_answerer(str(vilt))
    parts = ask_prompt(answerer, image, "a red star left of a blue ring")
    assert [part.question for part in parts] == [
        "Is there a red star in this picture?",
        "Is there a blue ring in this picture?",
        "Does this picture show a red star left of a blue ring?",
    ]
    for part in parts:
        (one,) = answerer.answer([image], part.question)
        assert part.yes == pytest.approx(one.probabilities["yes"], abs=1e-6)
    told = sentence_of([PartAnswer("a hat", "", 0.5), PartAnswer("a dog", "", 0.25)])
    assert told == "Missing: a dog (yes with 25 %)."
    assert sentence_of([PartAnswer("a hat", "", 0.5)]) == "Nothing is missing."


def test_the_command_prints_answers(
    vilt: Path, image: Image.Image, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    file = tmp_path / "a.png"
    image.save(file)
    done = cli("ask", file, "Is there a red star ?", "--model", vilt, "--json")
    (wanted,) = load_answerer(str(vilt)).answer([image], "Is there a red star ?")
    assert done.data["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-6)
    parts = cli("ask", file, "--from-prompt", "a red star", "--model", vilt, "--json").data
    assert [row["part"] for row in parts["parts"]] == ["a red star"]
    assert (parts["image"], parts["model"]) == (str(file), str(vilt))
    for options, words in (
        (["Is it ?", "--answers", "yes"], "expected two or more different"),
        (["Is it ?", "--answers", "yes,Yes"], "expected two or more different"),
        (["Is it ?", "--answers", "yes,maybe"], "got answer 'maybe', expected one it was taught"),
        (["a " * 60], "expected at most 40"),
        ([], "give either QUESTION or --from-prompt"),
        ([" "], "got an empty text"),
    ):
        done = cli("ask", file, *options, "--model", vilt)
        assert done.code == 2
        assert words in done.err
        assert done.err.count("\n") == 1


def test_a_captioner_taught_questions_compares_the_answers(
    toys: Path, clip_dir: Path, tmp_path: Path, image: Image.Image
) -> None:
    run = toy_captioner(toys, "soft_attention", tmp_path / "run", clip_dir, epochs=1)
    save_captioner(run.captioner, tmp_path / "model")
    answerer = load_answerer(str(tmp_path / "model"))
    captioner = load_captioner(tmp_path / "model")
    (found,) = answerer.answer([image], "is there a red ball?", ["red", "blue box"])
    logs = [float(captioner.log_prob([image], f"is there a red ball {answer}").sentence)
            for answer in ("red", "blue box")]  # fmt: skip
    red = math.exp(logs[0]) / (math.exp(logs[0]) + math.exp(logs[1]))
    assert found.probabilities["red"] == pytest.approx(red, abs=1e-5)
    assert 0.001 < red < 0.999
    with pytest.raises(ValueError, match=r"got answer 'zebra', expected words it knows"):
        answerer.answer([image], "is there a red ball?", ["red", "zebra"])
    with pytest.raises(ValueError, match=r"got answer '\.\.', expected a word in it"):
        answerer.answer([image], "is there a red ball?", ["red", ".."])
