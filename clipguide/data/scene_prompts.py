"""The fixed prompts the starter is measured on: two objects and how they stand."""

from __future__ import annotations

from random import Random

from clipguide.data.scene_captions import ObjectSpec, SceneSpec, write_caption
from clipguide.data.scenes import COLORS, FILLS, HELD_OUT, RELATIONS, SHAPES, SIZES, pick

DETAIL = 0.3
"""Probability of a prompt naming an object's size, and its fill."""


def fixed_prompts(count: int, *, held_out: bool = False, seed: int = 2026) -> list[str]:
    """The first ``count`` of an endless fixed list of prompts.

    Both colours and both shapes of a prompt differ, so that every swap of its words asks for
    another picture.

    Args:
        count: how many.
        held_out: whether at least one object of each prompt is a combination of
            :data:`~clipguide.data.scenes.HELD_OUT`, which no training caption contains; else none.
        seed: of the list; the first ``n`` of a longer list are the list of ``n``.

    Example:
        >>> len(set(fixed_prompts(300)))
        300
    """
    rng = Random(seed * 2 + int(held_out))
    prompts: list[str] = []
    while len(prompts) < count:
        prompt = write_caption(_draw_spec(rng, held_out), rng)
        if prompt not in prompts:
            prompts.append(prompt)
    return prompts


def _draw_spec(rng: Random, held_out: bool) -> SceneSpec:
    while True:
        a, b = _draw_object(rng), _draw_object(rng)
        novel = [(item.color, item.shape) in HELD_OUT for item in (a, b)]
        if a.color != b.color and a.shape != b.shape and any(novel) == held_out:
            return SceneSpec((a, b), pick(rng, RELATIONS))


def _draw_object(rng: Random) -> ObjectSpec:
    return ObjectSpec(
        pick(rng, tuple(COLORS)),
        pick(rng, tuple(SHAPES)),
        pick(rng, tuple(SIZES)) if rng.random() < DETAIL else None,
        pick(rng, FILLS) if rng.random() < DETAIL else None,
    )
