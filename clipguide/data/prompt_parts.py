"""The things a prompt names, one text each: "a red cube", "a blue ball"."""

from __future__ import annotations

import re

from clipguide.data.hard_negatives import find_things

_NEGATION = re.compile(
    r"\b(?:without|not|no|never|neither|except|minus|instead of)\b|n['\u2019]t\b", re.IGNORECASE
)
_GOES_ON = re.compile(r"[\s,]*\b(?:or|nor)\b\s*", re.IGNORECASE)


def parts_of(prompt: str) -> list[str]:
    """The things of a prompt in order, each once, as it names them: article, adjectives, noun.

    By the rules of `clipguide.data.hard_negatives.find_things`, for English. A prompt in which they
    find nothing is its own only part. What the prompt wants to be absent is no part: the first
    thing behind "without", "not" or "no", and those that "or" joins to it.

    Example:
        >>> parts_of("a red cube left of a blue ball")
        ['a red cube', 'a blue ball']
        >>> parts_of("a dog without a leash or a collar on a beach")
        ['a dog', 'a beach']
    """
    wanted, *others = _NEGATION.split(prompt)
    found = [wanted[first:end] for first, end in find_things(wanted)]
    for text in others:
        found += [text[first:end] for first, end in _after_the_absent(text)]
    return list(dict.fromkeys(found)) or [prompt]


def _after_the_absent(text: str) -> list[tuple[int, int]]:
    """The things of what follows a negation, without those that it is of."""
    things = find_things(text)
    absent = 1
    while absent < len(things) and _GOES_ON.fullmatch(
        text[things[absent - 1][1] : things[absent][0]]
    ):
        absent += 1
    return things[absent:]
