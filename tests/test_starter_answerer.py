"""The answerer in the package, asked about scenes that it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from conftest import Outcome

from clipguide.data.scene_captions import replace_attribute, spec_of, write_caption
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
FLOORS = {
    "how many": 0.95, "colour": 0.95, "shape": 0.9, "is there": 0.9, "shows": 0.7, "where": 0.35,
}  # fmt: skip
"""Right answers of each kind, at least; "where" is known by its axis, hardly by its side."""


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
    shares = {kind: right[kind] / asked[kind] for kind in asked}
    assert shares.keys() == FLOORS.keys()
    assert all(shares[kind] >= floor for kind, floor in FLOORS.items()), shares


def test_what_is_missing_is_said(tmp_path: Path, cli: Cli) -> None:
    told, asked = Counter[str](), 0
    for seed in SEEDS[:10]:
        scene = sample_scene(seed)
        spec = spec_of(scene, Random(seed), detail=0.0, relation=1.0)
        wrong = replace_attribute(spec, "color", Random(seed))
        if wrong is None:  # a description without colours
            continue
        asked += 1
        file = tmp_path / f"{seed}.png"
        render(scene).save(file)
        for said, prompt in (("right", spec), ("wrong", wrong)):
            text = write_caption(prompt, Random(0))
            done = cli("ask", file, "--from-prompt", text, "--model", "starter", "--json")
            assert done.code == 0, done.err
            told[said] += done.data["sentence"] == "Nothing is missing."
    assert asked >= 5
    assert told["right"] >= asked - 1
    assert told["wrong"] <= 1
