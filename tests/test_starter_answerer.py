"""The answerer in the package, asked about scenes that it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from conftest import Outcome

from clipguide.data.scene_captions import spec_of, swap, write_caption
from clipguide.data.scenes import COLORS, SHAPES, render, sample_scene
from clipguide.language.answers import load_answerer
from training.captioners.scenes import NUMBERS, questions

Cli = Callable[..., Outcome]
SEEDS = range(1000, 1040)
CHOICES: dict[str, tuple[str, ...]] = {
    "how many": NUMBERS[1:],
    "colour": (*COLORS,),
    "shape": (*SHAPES,),
    "is there": ("yes", "no"),
    "where": ("left", "right", "above", "below"),
    "shows": ("yes", "no"),
}


@pytest.fixture(scope="module", autouse=True)
def installed(starter_assets: Path) -> None:
    together = [
        *(starter_assets / "questions").rglob("*"),
        *(starter_assets / "captioner").rglob("*"),
    ]
    sizes = [file.stat().st_size for file in together if file.is_file()]
    assert 0 < sum(sizes) < 2_000_000


def test_every_kind_of_question_is_answered_better_than_by_chance() -> None:
    answerer = load_answerer("starter")
    asked, right = Counter[str](), Counter[str]()
    for seed in SEEDS:
        scene = sample_scene(seed)
        for kind, question, answer in questions(scene, Random(seed)):
            (found,) = answerer.answer([render(scene)], question, CHOICES[kind])
            asked[kind] += 1
            right[kind] += found.text == answer
    assert set(asked) == set(CHOICES)
    shares = {kind: right[kind] / asked[kind] for kind in asked}
    assert min(shares.values()) >= 0.7, shares


def test_what_is_missing_is_said(tmp_path: Path, cli: Cli) -> None:
    told = Counter[str]()
    for seed in SEEDS:
        scene = sample_scene(seed)
        spec = spec_of(scene, Random(seed), detail=0.0, relation=1.0)
        wrong = swap(spec, "relation")
        if wrong is None or len(told) > 1 or sum(told.values()) >= 12:
            continue
        file = tmp_path / f"{seed}.png"
        render(scene).save(file)
        for said, prompt in (("right", spec), ("wrong", wrong)):
            text = write_caption(prompt, Random(0))
            done = cli("ask", file, "--from-prompt", text, "--model", "starter", "--json")
            assert done.code == 0, done.err
            assert len(done.data["parts"]) >= 2
            told[said] += done.data["sentence"] == "Nothing is missing."
    assert told["right"] > told["wrong"]
