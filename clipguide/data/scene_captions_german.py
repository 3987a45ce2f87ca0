"""The grammar of scenes in German, by rules: gender, case and the endings after "ein".

"a small red star left of a blue ring" is "ein kleiner roter Stern links von einem blauen Ring".
"""

from __future__ import annotations

from typing import NamedTuple

from clipguide.data.scene_captions import ObjectSpec, SceneSpec


class Noun(NamedTuple):
    """A word and its gender: "m" or "n"."""

    word: str
    gender: str


SHAPES = {
    "circle": Noun("Kreis", "m"), "square": Noun("Quadrat", "n"), "triangle": Noun("Dreieck", "n"),
    "star": Noun("Stern", "m"), "ring": Noun("Ring", "m"), "cross": Noun("Kreuz", "n"),
}  # fmt: skip
ADJECTIVES = {
    "red": "rot", "orange": "orangefarben", "yellow": "gelb", "green": "grün",
    "cyan": "türkisfarben", "blue": "blau", "purple": "violett", "pink": "rosafarben",
    "small": "klein", "large": "groß", "plain": "einfarbig", "striped": "gestreift",
}  # fmt: skip
"""Without an ending."""
GERMAN: dict[str, tuple[str, ...]] = {
    "left of": (
        "{a} links von {b_dative}", "{a} auf der linken Seite von {b_dative}",
        "{b} mit {a_dative} links davon",
    ),
    "right of": (
        "{a} rechts von {b_dative}", "{a} auf der rechten Seite von {b_dative}",
        "{b} mit {a_dative} rechts davon",
    ),
    "above": (
        "{a} über {b_dative}", "{a} oberhalb von {b_dative}", "{b} mit {a_dative} darüber",
    ),
    "below": (
        "{a} unter {b_dative}", "{a} unterhalb von {b_dative}", "{b} mit {a_dative} darunter",
    ),
}  # fmt: skip
"""Relation -> phrases, in the order of `clipguide.data.scene_captions.PHRASES`."""

_ENDINGS = {"nominative": {"m": "er", "n": "es"}, "dative": {"m": "en", "n": "en"}}
_ARTICLES = {"nominative": "ein", "dative": "einem"}


def german_object(item: ObjectSpec, case: str = "nominative") -> str:
    """An object, in the nominative or the dative.

    Example:
        >>> german_object(ObjectSpec("red", "cross", "small"), "dative")
        'einem kleinen roten Kreuz'
    """
    noun = SHAPES[item.shape]
    ending = _ENDINGS[case][noun.gender]
    words = [item.size, item.fill, item.color]
    adjectives = [ADJECTIVES[word] + ending for word in words if word]
    return " ".join([_ARTICLES[case], *adjectives, noun.word])


def german_phrasings(spec: SceneSpec) -> list[str]:
    """Every German caption that asks for `spec`, in the order of its English ones.

    Example:
        >>> star, ring = ObjectSpec("red", "star"), ObjectSpec("blue", "ring")
        >>> german_phrasings(SceneSpec((star, ring), "above"))[2]
        'ein blauer Ring mit einem roten Stern darüber'
    """
    names = [german_object(item) for item in spec.objects]
    if spec.relation is None:
        head, last = ", ".join(names[:-1]), names[-1]
        return [f"{head} und {last}" if head else last]
    dative = [german_object(item, "dative") for item in spec.objects]
    tail = "".join(f", und {name}" for name in names[2:])
    cases = {"a": names[0], "b": names[1], "a_dative": dative[0], "b_dative": dative[1]}
    return [phrase.format(**cases) + tail for phrase in GERMAN[spec.relation]]
