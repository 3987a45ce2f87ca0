"""Swap accuracy of encoders whose score is known: one that understands, one that counts words."""

from __future__ import annotations

import hashlib
from collections import Counter
from random import Random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clipguide.data.scene_captions import (
    SWAPS,
    ObjectSpec,
    SceneSpec,
    parse_caption,
    spec_of,
    swap,
    vocabulary,
)
from clipguide.data.scenes import COLORS, FILLS, INVERSE, SHAPES, SIZES, sample_scene
from clipguide.evaluation.swaps import swap_accuracy

CONTENT = [*COLORS, *SHAPES, *SIZES, *FILLS]


def _meaning(spec: SceneSpec) -> str:
    """The same text for descriptions of the same scene, whichever object they begin with."""
    a, *rest = (str(item) for item in spec.objects)
    if not spec.relation or a < rest[0]:
        return f"{a} {spec.relation} {rest}"
    return f"{rest[0]} {INVERSE[spec.relation]} {[a, *rest[1:]]}"


def _understand(spec: SceneSpec) -> Tensor:
    """A random unit vector per meaning."""
    seed = int.from_bytes(hashlib.sha256(_meaning(spec).encode()).digest()[:4], "little")
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(vector, dim=0)


def _exact(captions: list[str]) -> Tensor:
    return torch.stack([_understand(parse_caption(caption)) for caption in captions])


def _bag(captions: list[str], words: list[str]) -> Tensor:
    """How often each of ``words`` occurs in each caption, as unit vectors."""
    counts = [Counter(caption.replace(",", " ,").split()) for caption in captions]
    return functional.normalize(torch.tensor([[float(c[w]) for w in words] for c in counts]))


def _specs(count: int) -> list[SceneSpec]:
    """Descriptions of two-object scenes that every kind of swap changes."""
    rng = Random(3)
    specs = [spec_of(sample_scene(i, count=2), rng, relation=1.0) for i in range(2 * count)]
    return [spec for spec in specs if all(swap(spec, kind) for kind in SWAPS)][:count]


def test_an_encoder_that_understands_is_always_right() -> None:
    specs = _specs(60)
    features = torch.stack([_understand(spec) for spec in specs])
    assert swap_accuracy(features, specs, _exact) == dict.fromkeys(SWAPS, 1.0)


def test_the_share_of_images_that_are_right_is_the_accuracy() -> None:
    specs = _specs(60)
    features = torch.stack([_understand(spec) for spec in specs])
    features[:15] *= -1  # now nearer to anything than to their own caption
    assert swap_accuracy(features, specs, _exact) == dict.fromkeys(SWAPS, 0.75)


def test_an_encoder_that_sees_only_the_objects_words_ties_and_a_tie_is_wrong() -> None:
    specs = _specs(60)
    features = torch.ones(60, len(CONTENT)) / len(CONTENT) ** 0.5
    found = swap_accuracy(features, specs, lambda captions: _bag(captions, CONTENT))
    assert found == dict.fromkeys(SWAPS, 0.0)


def test_a_bag_of_words_is_at_chance() -> None:
    # The images know every word of their scene and nothing of its order. One caption in three is
    # swapped into exactly its own words, which is a tie; the rest is a coin.
    specs = _specs(1000)
    words = vocabulary()
    noise = torch.randn((len(specs), len(words)), generator=torch.Generator().manual_seed(0))
    known = _bag([" ".join(str(item) for item in spec.objects) for spec in specs], words)
    features = functional.normalize(known + noise, dim=-1)
    found = swap_accuracy(features, specs, lambda captions: _bag(captions, words))
    assert found["relation"] == pytest.approx(1 / 2, abs=0.06)
    assert found["order"] == pytest.approx(1 / 3, abs=0.06)
    assert found["binding"] == pytest.approx(1 / 3, abs=0.06)


def test_descriptions_that_a_swap_would_not_change_do_not_count() -> None:
    specs = _specs(10)
    lonely = SceneSpec((ObjectSpec("red", "star"),))
    alike = SceneSpec((ObjectSpec("red", "star"), ObjectSpec("red", "circle")), "above")
    features = torch.stack([_understand(spec) for spec in [lonely, alike, *specs]])
    features[:2] *= -1
    found = swap_accuracy(features, [lonely, alike, *specs], _exact)
    assert found["binding"] == 1.0
    assert found["relation"] == found["order"] == pytest.approx(10 / 11)


def test_one_call_of_the_encoder_per_kind_and_the_seed_chooses_the_phrasings() -> None:
    specs = _specs(20)
    features = torch.stack([_understand(spec) for spec in specs])

    def captions_of(seed: int) -> list[list[str]]:
        calls: list[list[str]] = []
        swap_accuracy(features, specs, lambda texts: (calls.append(texts), _exact(texts))[1], seed)
        return calls

    first = captions_of(0)
    assert [len(call) for call in first] == [40] * len(SWAPS)
    assert captions_of(0) == first
    assert captions_of(1) != first


def test_what_cannot_be_measured_is_refused() -> None:
    specs = _specs(3)
    with pytest.raises(ValueError, match="got 2 images, expected 3, one per spec"):
        swap_accuracy(torch.zeros(2, 32), specs, _exact)
    with pytest.raises(ValueError, match="got none that a relation swap changes"):
        swap_accuracy(torch.zeros(1, 32), [SceneSpec((ObjectSpec("red", "star"),))], _exact)
