"""What a caption has to be told from: rules by name, each from a caption to other texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipguide.data.hard_negatives import find_things, swaps_of


def doubles_of(caption: str) -> list[str]:
    """`caption` with one of its first two things named twice, without what relates them: what a
    picture with an object too many shows. None for a caption without two things.

    Example:
        >>> doubles_of("a red star left of a blue ring")
        ['a red star, a red star and a blue ring', 'a red star, a blue ring and a blue ring']
    """
    spans = find_things(caption)[:2]
    if len(spans) < 2:
        return []
    first, second = (caption[start:end] for start, end in spans)
    first = first[0].lower() + first[1:]
    return [f"{first}, {first} and {second}", f"{first}, {second} and {second}"]


ALTERNATIVES: dict[str, Callable[[str], list[str]]] = {"swaps": swaps_of, "doubles": doubles_of}
"""Name -> rule."""


def alternatives_of(caption: str, rules: Sequence[str] = ("swaps",)) -> list[str]:
    """The texts that the named rules make of `caption`, in their order, none twice.

    Raises:
        ValueError: a rule that is not one of `ALTERNATIVES`.
    """
    unknown = [rule for rule in rules if rule not in ALTERNATIVES]
    if unknown:
        raise ValueError(f"got rule {unknown[0]!r}, expected one of {', '.join(ALTERNATIVES)}")
    texts = [text for rule in rules for text in ALTERNATIVES[rule](caption)]
    return [text for text in dict.fromkeys(texts) if text != caption]
