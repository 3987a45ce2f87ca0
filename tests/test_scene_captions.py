"""The grammar and its inverse: captions parse back; swaps keep the words and change the scene."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguide.data.scene_captions import (
    ATTRIBUTES,
    SWAPS,
    ObjectSpec,
    SceneSpec,
    parse_caption,
    phrasings,
    replace_attribute,
    spec_of,
    swap,
    vocabulary,
    write_caption,
)
from clipguide.data.scenes import (
    COLORS,
    FILLS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    holds,
    sample_scene,
)

OBJECTS = st.builds(
    ObjectSpec,
    st.sampled_from(list(COLORS)),
    st.sampled_from(list(SHAPES)),
    st.sampled_from([None, *SIZES]),
    st.sampled_from([None, *FILLS]),
)


@st.composite
def specs(draw: st.DrawFn) -> SceneSpec:
    objects = tuple(draw(st.lists(OBJECTS, min_size=1, max_size=3)))
    relation = draw(st.sampled_from([None, *RELATIONS])) if len(objects) > 1 else None
    return SceneSpec(objects, relation)


@settings(max_examples=300, deadline=None)
@given(specs())
def test_every_phrasing_parses_back_to_its_spec(spec: SceneSpec) -> None:
    captions = phrasings(spec)
    assert len(set(captions)) == len(captions) == (3 if spec.relation else 1)
    assert all(parse_caption(caption) == spec for caption in captions)


@settings(max_examples=60, deadline=None)
@given(specs(), st.randoms(use_true_random=False))
def test_case_blanks_and_a_full_stop_do_not_matter(spec: SceneSpec, rng: Random) -> None:
    caption = write_caption(spec, rng)
    assert parse_caption(f"  {caption.upper().replace(' ', '   ')}. ") == spec


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red star", SceneSpec((ObjectSpec("red", "star"),))),
        ("an orange ring", SceneSpec((ObjectSpec("orange", "ring"),))),
        (
            "a blue ring with a small striped red star to its left",
            SceneSpec(
                (ObjectSpec("red", "star", "small", "striped"), ObjectSpec("blue", "ring")),
                "left of",
            ),
        ),
        (
            "a pink cross under a cyan circle, and a large green square",
            SceneSpec(
                (
                    ObjectSpec("pink", "cross"),
                    ObjectSpec("cyan", "circle"),
                    ObjectSpec("green", "square", "large"),
                ),
                "below",
            ),
        ),
        (
            "a red star, a blue ring and a plain pink cross",
            SceneSpec(
                (
                    ObjectSpec("red", "star"),
                    ObjectSpec("blue", "ring"),
                    ObjectSpec("pink", "cross", None, "plain"),
                )
            ),
        ),
    ],
)
def test_captions_read_as_a_person_reads_them(caption: str, expected: SceneSpec) -> None:
    assert parse_caption(caption) == expected


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a",
        "red star",
        "a star",
        "a red dragon",
        "a striped small red star",
        "a red star left of",
        "a red star left of a blue ring left of a pink cross",
        "a red star, a blue ring, a pink cross and a cyan circle",
        "a red star and a blue ring and a pink cross",
        "a red star beside a blue ring",
        "photo of a red star",
    ],
)
def test_what_the_grammar_does_not_make_is_refused(caption: str) -> None:
    with pytest.raises(ValueError, match=r"caption: got .*, expected one to three objects"):
        parse_caption(caption)


WORDS = st.lists(st.sampled_from([*vocabulary(), "to its left", "with"]), max_size=14)


@settings(max_examples=200, deadline=None)
@given(WORDS.map(" ".join) | st.text(max_size=40))
def test_any_text_parses_to_a_spec_that_says_it_or_is_refused(text: str) -> None:
    try:
        spec = parse_caption(text)
    except ValueError:
        return
    normal = " ".join(text.lower().split()).rstrip(".")
    # the article is free: "a orange" is understood, though never written
    plain = [caption.replace("an ", "a ") for caption in phrasings(spec)]
    assert normal.replace("an ", "a ") in plain


def test_every_word_of_the_grammar_is_in_the_vocabulary() -> None:
    words = set(vocabulary())
    for seed in range(300):
        rng = Random(seed)
        spec = spec_of(sample_scene(seed, held_out=True), rng, detail=1.0)
        for caption in phrasings(spec):
            assert set(caption.replace(",", " , ").split()) <= words


# --- a description is true of its scene, a swapped one is not ------------------------------------


def _true_of(scene: Scene, spec: SceneSpec) -> bool:
    """Symbolic truth: the named attributes and the relation, read off the scene itself."""
    found = []
    for asked in spec.objects:
        fits = [
            thing
            for thing in scene.objects
            if all(getattr(asked, a) in (None, getattr(thing, a)) for a in ATTRIBUTES)
        ]
        if len(fits) != 1:
            return False
        found.append(fits[0])
    if len({id(thing) for thing in found}) != len(scene.objects):
        return False
    a, *rest = [(thing.x, thing.y) for thing in found]
    return spec.relation is None or holds(spec.relation, a, rest[0])


@pytest.mark.parametrize("detail", [0.0, 0.3, 1.0])
def test_a_description_is_true_of_its_scene(detail: float) -> None:
    for seed in range(300):
        scene = sample_scene(seed, held_out=True)
        assert _true_of(scene, spec_of(scene, Random(seed), detail=detail))


def test_detail_and_relation_are_named_as_often_as_asked() -> None:
    scenes = [sample_scene(seed, count=2) for seed in range(1000)]
    described = [spec_of(scene, Random(i)) for i, scene in enumerate(scenes)]
    named = [item.size is not None for spec in described for item in spec.objects]
    assert sum(named) / len(named) == pytest.approx(0.3, abs=0.04)
    assert sum(spec.relation is not None for spec in described) / 1000 == pytest.approx(
        0.85, abs=0.04
    )
    first = [
        spec.objects[0].color == scene.objects[0].color
        for scene, spec in zip(scenes, described, strict=True)
        if spec.relation and scene.objects[0].color != scene.objects[1].color
    ]
    assert sum(first) / len(first) == pytest.approx(0.5, abs=0.05)


def _words(caption: str) -> list[str]:
    return [word.strip(",") for word in caption.replace("an ", "a ").split()]


@pytest.mark.parametrize("kind", SWAPS)
def test_a_swap_keeps_the_words_and_is_false_of_the_scene(kind: str) -> None:
    swapped_some = 0
    for seed in range(300):
        scene = sample_scene(seed, held_out=True)
        spec = spec_of(scene, Random(seed), relation=1.0)
        swapped = swap(spec, kind)
        if swapped is None:
            continue
        swapped_some += 1
        assert not _true_of(scene, swapped)
        assert swap(swapped, kind) == spec
        if kind != "relation":
            before, after = (Counter(_words(phrasings(s)[0])) for s in (spec, swapped))
            assert before == after
    assert swapped_some > 150


def test_swaps_that_would_change_nothing_are_none() -> None:
    red, blue = ObjectSpec("red", "star"), ObjectSpec("blue", "ring")
    for kind in SWAPS:
        assert swap(SceneSpec((red,)), kind) is None
    assert swap(SceneSpec((red, blue)), "relation") is None
    assert swap(SceneSpec((red, blue)), "order") is None
    assert swap(SceneSpec((red, replace(blue, color="red"))), "binding") is None
    assert swap(SceneSpec((red, replace(blue, shape="star"))), "binding") is None
    with pytest.raises(ValueError, match="kind: got 'colour', expected one of relation, order"):
        swap(SceneSpec((red, blue)), "colour")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_replacing_an_attribute_changes_one_word_and_is_false_of_the_scene(attribute: str) -> None:
    for seed in range(300):
        rng = Random(seed)
        scene = sample_scene(seed, held_out=True)
        spec = spec_of(scene, rng, detail=1.0)
        changed = replace_attribute(spec, attribute, rng)
        if changed is None:
            assert attribute in ("color", "shape")  # the new look is another object's already
            continue
        assert changed.relation == spec.relation
        differ = [
            (i, name)
            for i, (old, new) in enumerate(zip(spec.objects, changed.objects, strict=True))
            for name in ATTRIBUTES
            if getattr(old, name) != getattr(new, name)
        ]
        assert [name for _, name in differ] == [attribute]
        assert not _true_of(scene, changed)


def test_an_attribute_nobody_names_cannot_be_replaced() -> None:
    spec = SceneSpec((ObjectSpec("red", "star"), ObjectSpec("blue", "ring")), "above")
    assert replace_attribute(spec, "size", Random(0)) is None
    assert replace_attribute(spec, "fill", Random(0)) is None
