"""What the tables of training/captioners and training/languages are counted by."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipguide.data.scene_captions import parse_caption
from clipguide.data.scene_captions_german import german_phrasings
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.data.scenes import sample_scene
from clipguide.evaluation.kendall import kendall_tau_c
from training.captioners.fooled import area, oftener
from training.captioners.masks import place_of
from training.captioners.people import Pair, above, added
from training.languages.measure import in_german, swapped


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=2, max_size=12))
def test_the_area_counts_pairs(rows: list[tuple[bool, int]]) -> None:
    right = [score for ok, score in rows if ok]
    wrong = [score for ok, score in rows if not ok]
    if not right or not wrong:
        return
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in product(right, wrong)]
    found = area(np.array([float(ok) for ok, _ in rows]), np.array([s for _, s in rows], float))
    assert found == pytest.approx(sum(won) / len(won))


def test_pictures_of_one_score_are_compared() -> None:
    """Whoever is right by the score alone gains nothing by being guided; a guided picture that is
    wrong at each score loses all of it."""
    scores = np.tile(np.arange(8.0), 20)
    guided = np.repeat([0.0, 1.0], 80)
    by_score = (scores >= 4).astype(float)
    assert oftener(by_score, scores, guided) == 0.0
    assert oftener(1 - guided, scores, guided) == -1.0
    # more of the guided have high scores: a plain difference would praise guidance
    more = np.concatenate([np.tile(np.arange(8.0), 10), np.tile(np.arange(4.0, 8.0), 20)])
    assert oftener((more >= 4).astype(float), more, guided) == pytest.approx(0.0)


def test_judges_are_added_by_their_deviations() -> None:
    assert added([[1.0, 2.0], [30.0, 10.0]], [0.5, 10.0]) == [5.0, 5.0]


def test_a_gain_is_the_difference_of_both() -> None:
    rng = Random(0)
    pairs = [Pair(Path(f"{i % 30}.jpg"), "", (1 + i % 4, 1 + i % 3, 1 + i % 4)) for i in range(120)]
    clip = [rng.random() + 0.1 * pair.ratings[0] for pair in pairs]
    better = [rng.random() + 0.5 * pair.ratings[0] for pair in pairs]
    gain, low, high = above(pairs, better, clip)
    flat = np.array([pair.ratings for pair in pairs], float).ravel()
    tau = [100 * kendall_tau_c(np.repeat(some, 3), flat) for some in (better, clip)]
    assert gain == pytest.approx(tau[0] - tau[1])
    assert low < gain < high
    assert above(pairs, clip, clip) == (0.0, 0.0, 0.0)


def test_a_prompt_and_its_swaps_in_german() -> None:
    assert in_german("a red star left of a blue ring") == (
        "ein roter Stern links von einem blauen Ring"
    )
    for prompt in fixed_prompts(40):
        assert in_german(prompt) in german_phrasings(parse_caption(prompt))
        others = swapped(prompt)
        assert others
        assert all(parse_caption(other) != parse_caption(prompt) for other in others)


def test_the_place_of_an_object_is_where_it_is_drawn() -> None:
    scene = sample_scene(5_200_000, count=2)
    there = place_of(scene)
    item = scene.objects[0]
    rows, columns = np.nonzero(there)
    assert (columns.mean(), rows.mean()) == pytest.approx((item.x, item.y), abs=2.0)  # pixels
    assert 0 < there.mean() < 0.25
