"""The fixed prompts: always the same, all different, and what the starter must never have read."""

from __future__ import annotations

import hashlib

import pytest

from clipguide.data.scene_captions import SWAPS, parse_caption, phrasings, swap
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.data.scenes import HELD_OUT, RELATIONS

USUAL = fixed_prompts(200)
NOVEL = fixed_prompts(100, held_out=True)

GOLDEN = "445976926fd9f7922c3a00a3382e908d4e21f582a6565389558d73ba208100f7"
"""SHA-256 of the 300 prompts of the model card: published figures mean these."""


def test_they_are_the_prompts_of_the_model_card() -> None:
    assert hashlib.sha256("\n".join(USUAL + NOVEL).encode()).hexdigest() == GOLDEN


def test_all_are_different() -> None:
    assert len(set(USUAL + NOVEL)) == 300
    assert len(set(fixed_prompts(300, held_out=True))) == 300  # one is drawn twice on the way


@pytest.mark.parametrize("held_out", [False, True])
def test_a_shorter_list_begins_the_longer_one(held_out: bool) -> None:
    longest = fixed_prompts(40, held_out=held_out)
    for count in (0, 1, 17, 39):
        assert fixed_prompts(count, held_out=held_out) == longest[:count]


def test_another_seed_is_another_list() -> None:
    assert not set(fixed_prompts(30, seed=1)) & set(fixed_prompts(30, seed=2))


def test_each_parses_back_to_two_different_objects_in_a_relation() -> None:
    for prompt in USUAL + NOVEL:
        spec = parse_caption(prompt)
        assert prompt in phrasings(spec)
        a, b = spec.objects
        assert a.color != b.color
        assert a.shape != b.shape
        assert spec.relation in RELATIONS


def test_every_swap_of_each_asks_for_something_else() -> None:
    for spec in map(parse_caption, USUAL + NOVEL):
        asked = [spec, *(swap(spec, kind) for kind in SWAPS)]
        assert None not in asked
        assert len({str(other) for other in asked}) == 4


def test_held_out_combinations_are_in_the_held_out_prompts_alone() -> None:
    def novel(prompt: str) -> int:
        return sum((item.color, item.shape) in HELD_OUT for item in parse_caption(prompt).objects)

    assert [novel(prompt) for prompt in USUAL] == [0] * 200
    counts = [novel(prompt) for prompt in NOVEL]
    assert min(counts) == 1
    named = {(o.color, o.shape) for text in NOVEL for o in parse_caption(text).objects}
    assert named >= HELD_OUT


def test_sizes_and_fills_are_named_as_often_as_in_training() -> None:
    items = [item for text in fixed_prompts(400) for item in parse_caption(text).objects]
    for name in ("size", "fill"):
        share = sum(getattr(item, name) is not None for item in items) / len(items)
        assert share == pytest.approx(0.3, abs=0.06)
