"""The things a prompt names, one text each: "a red cube", "a blue ball"."""

from __future__ import annotations

from clipguide.data.hard_negatives import find_things


def parts_of(prompt: str) -> list[str]:
    """The things of a prompt in order, each once, as it names them: article, adjectives, noun.

    By the rules of `clipguide.data.hard_negatives.find_things`, for English. A prompt in which they
    find nothing is its own only part.

    Example:
        >>> parts_of("a red cube left of a blue ball")
        ['a red cube', 'a blue ball']
    """
    found = [prompt[first:end] for first, end in find_things(prompt)]
    return list(dict.fromkeys(found)) or [prompt]
