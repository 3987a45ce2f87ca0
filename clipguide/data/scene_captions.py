"""Captions of scenes, their inverse (what a caption asks for), and the swaps that test word order.

Grammar, in all its phrasings:

    object   = "a" [size] [fill] colour shape
    scene    = object | object "and" object | object "," object "and" object
             | related [", and" object]
    related  = A relation B  |  B "with" A mirrored      ("a blue ring with a red star to its left")

Every caption of the grammar parses back to the :class:`SceneSpec` it was written from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from random import Random

from clipguide.data.scenes import COLORS, FILLS, INVERSE, RELATIONS, SHAPES, SIZES, Scene, pick

PHRASES: dict[str, tuple[str, ...]] = {
    "left of": ("{a} left of {b}", "{a} to the left of {b}", "{b} with {a} to its left"),
    "right of": ("{a} right of {b}", "{a} to the right of {b}", "{b} with {a} to its right"),
    "above": ("{a} above {b}", "{a} on top of {b}", "{b} with {a} above it"),
    "below": ("{a} below {b}", "{a} under {b}", "{b} with {a} below it"),
}
SWAPS = ("relation", "order", "binding")
"""Swaps that keep every word: relation inverted, objects exchanged, colours exchanged."""
ATTRIBUTES = ("color", "shape", "size", "fill")


@dataclass(frozen=True)
class ObjectSpec:
    """What a caption asks of one object; ``None`` where it does not say."""

    color: str
    shape: str
    size: str | None = None
    fill: str | None = None

    def __str__(self) -> str:
        words = [self.size, self.fill, self.color, self.shape]
        body = " ".join(word for word in words if word)
        return f"{'an' if body[0] in 'aeiou' else 'a'} {body}"


@dataclass(frozen=True)
class SceneSpec:
    """What a caption asks for: its objects, and how the first stands to the second, if it says."""

    objects: tuple[ObjectSpec, ...]
    relation: str | None = None


def spec_of(scene: Scene, rng: Random, *, detail: float = 0.3, relation: float = 0.85) -> SceneSpec:
    """A description of ``scene`` that names colours and shapes always, the rest by chance.

    Args:
        detail: probability of naming each object's size, and each object's fill.
        relation: probability of naming the relation; either object of the pair may come first.
    """
    objects = [
        ObjectSpec(
            item.color,
            item.shape,
            item.size if rng.random() < detail else None,
            item.fill if rng.random() < detail else None,
        )
        for item in scene.objects
    ]
    if scene.relation is None or rng.random() >= relation:
        return SceneSpec(tuple(objects))
    if rng.random() < 0.5:
        return SceneSpec((objects[1], objects[0], *objects[2:]), INVERSE[scene.relation])
    return SceneSpec(tuple(objects), scene.relation)


def phrasings(spec: SceneSpec) -> list[str]:
    """Every caption of the grammar that asks for ``spec``.

    Example:
        >>> star, ring = ObjectSpec("red", "star"), ObjectSpec("blue", "ring")
        >>> phrasings(SceneSpec((star, ring), "above"))[2]
        'a blue ring with a red star above it'
    """
    names = [str(item) for item in spec.objects]
    if spec.relation is None:
        head, last = ", ".join(names[:-1]), names[-1]
        return [f"{head} and {last}" if head else last]
    tail = "".join(f", and {name}" for name in names[2:])
    return [phrase.format(a=names[0], b=names[1]) + tail for phrase in PHRASES[spec.relation]]


def write_caption(spec: SceneSpec, rng: Random) -> str:
    """One of :func:`phrasings`, chosen by ``rng``."""
    return pick(rng, phrasings(spec))


_OBJECT = (
    rf"an? (?:({'|'.join(SIZES)}) )?(?:({'|'.join(FILLS)}) )?"
    rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
)
_PLAIN_OBJECT = re.sub(r"\((?!\?)", "(?:", _OBJECT)


def _compile(phrase: str) -> tuple[re.Pattern[str], bool]:
    """A phrase as a pattern, and whether it names B before A."""
    pattern = re.escape(phrase).replace(r"\{a\}", f"(?P<a>{_PLAIN_OBJECT})")
    pattern = pattern.replace(r"\{b\}", f"(?P<b>{_PLAIN_OBJECT})")
    return re.compile(rf"{pattern}(?:, and (?P<c>{_PLAIN_OBJECT}))?"), phrase.startswith("{b}")


_RELATED = [(relation, *_compile(text)) for relation, texts in PHRASES.items() for text in texts]
_LIST = re.compile(
    rf"(?:(?:(?P<a>{_PLAIN_OBJECT}), )?(?P<b>{_PLAIN_OBJECT}) and )?(?P<c>{_PLAIN_OBJECT})"
)


def parse_caption(caption: str) -> SceneSpec:
    """The scene that ``caption`` asks for; case, outer blanks and a final full stop do not matter.

    Raises:
        ValueError: the caption is not of the grammar.

    Example:
        >>> parse_caption("a blue ring with a red star to its left").relation
        'left of'
    """
    text = " ".join(caption.lower().split()).rstrip(".")
    for relation, pattern, _ in _RELATED:
        if found := pattern.fullmatch(text):
            parts = [part for part in (found["a"], found["b"], found["c"]) if part]
            return SceneSpec(tuple(_parse_object(part) for part in parts), relation)
    if found := _LIST.fullmatch(text):
        parts = [part for part in (found["a"], found["b"], found["c"]) if part]
        return SceneSpec(tuple(_parse_object(part) for part in parts))
    raise ValueError(
        f"caption: got {caption!r}, expected one to three objects such as "
        "'a small striped red star left of a blue ring'"
    )


def is_caption(text: str) -> bool:
    """Whether `parse_caption` takes ``text``."""
    try:
        parse_caption(text)
    except ValueError:
        return False
    return True


def unknown_words(text: str) -> list[str]:
    """The words of ``text`` that the grammar does not have, each once, in order.

    Example:
        >>> unknown_words("A red dog left of a blue ring, at dawn")
        ['dog', 'at', 'dawn']
    """
    known = set(vocabulary())
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())
    return [word for word in dict.fromkeys(words) if word not in known]


def _parse_object(text: str) -> ObjectSpec:
    found = re.fullmatch(_OBJECT, text)
    assert found is not None  # the outer pattern matched it
    size, fill, color, shape = found.groups()
    return ObjectSpec(color, shape, size, fill)


def swap(spec: SceneSpec, kind: str) -> SceneSpec | None:
    """``spec`` with the same words in other places, None where that would change nothing.

    Args:
        kind: one of :data:`SWAPS`; anything else is a ValueError.

    Example:
        >>> a, b = ObjectSpec("red", "star"), ObjectSpec("blue", "ring")
        >>> phrasings(swap(SceneSpec((a, b), "above"), "binding"))[0]
        'a blue star above a red ring'
    """
    if kind not in SWAPS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(SWAPS)}")
    if len(spec.objects) < 2:
        return None
    a, b, *rest = spec.objects
    if kind == "binding":
        if a.color == b.color or a.shape == b.shape:
            return None
        return replace(spec, objects=(replace(a, color=b.color), replace(b, color=a.color), *rest))
    if spec.relation is None:
        return None
    if kind == "relation":
        return replace(spec, relation=INVERSE[spec.relation])
    return replace(spec, objects=(b, a, *rest))


def replace_attribute(spec: SceneSpec, attribute: str, rng: Random) -> SceneSpec | None:
    """``spec`` with one object's ``attribute``, one of :data:`ATTRIBUTES`, another than it was.

    None if no object names that attribute, or if the change would make two objects look alike.
    """
    named = [i for i, item in enumerate(spec.objects) if getattr(item, attribute) is not None]
    if not named:
        return None
    index = pick(rng, named)
    item = spec.objects[index]
    choices = {"color": tuple(COLORS), "shape": tuple(SHAPES), "size": tuple(SIZES), "fill": FILLS}
    others = [value for value in choices[attribute] if value != getattr(item, attribute)]
    changed = replace(item, **{attribute: pick(rng, others)})
    looks = [other for i, other in enumerate(spec.objects) if i != index]
    if any((other.color, other.shape) == (changed.color, changed.shape) for other in looks):
        return None
    return replace(spec, objects=(*spec.objects[:index], changed, *spec.objects[index + 1 :]))


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted."""
    text = " ".join([*COLORS, *SHAPES, *SIZES, *FILLS, *RELATIONS, "a an and , with"])
    text += " " + " ".join(phrase for texts in PHRASES.values() for phrase in texts)
    return sorted(set(re.sub(r"\{.\}", " ", text).split()))
