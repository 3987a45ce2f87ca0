"""Hard negative captions: the same words in other places, or a relation turned round.

For plain English, by rule and without a tagger. The kinds:

- `relation`: a word of place or direction becomes its opposite (`RELATIONS`);
- `color`: two different colours change places;
- `adjective`: two different adjectives of a list do, colours among them;
- `number`: two different numbers change places;
- `noun`: two different nouns change places. Nouns are found in the captions themselves: words
  that often stand after a determiner and before a verb, a preposition or the end (`find_nouns`).

Source: Yuksekgonul et al. 2023 (section 4, https://arxiv.org/abs/2210.01936); our own rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from random import Random


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLORS = _words(
    "black white red green blue yellow brown orange pink purple gray grey tan gold golden silver "
    "blond blonde beige maroon turquoise cyan dark light colorful striped plaid"
)
HUES = COLORS - _words("dark light colorful striped plaid")
"""The colours that are one: "dark blue" and "striped red" keep their first word in a swap."""
NUMBERS = _words("one two three four five six seven eight nine ten several many")
DETERMINERS = _words(
    "a an the his her its their this that these those some another each every two three four "
    "five six several"
)
ADJECTIVES = COLORS | _words(
    "young old little small large big tall long short older younger asian wooden wet dirty grassy "
    "snowy sandy rocky empty busy other same bright plain"
)
_AFTER_NOUN = _words(
    "is are was were has have with in on at by of near under over through along down up across "
    "behind beside against around into onto while who that which and or . , ! ; to from for "
    "next off towards toward outside inside underneath during as left right above below"
)
RELATIONS = {
    "left": "right",
    "above": "below",
    "over": "under",
    "in front of": "behind",
    "inside": "outside",
    "into": "out of",
    "up": "down",
    "onto": "off of",
    "towards": "away from",
    "on top of": "underneath",
}
"""Words of place and direction -> their opposites; also read from right to left."""

_OPPOSITES = RELATIONS | {other: word for word, other in RELATIONS.items()}
_RELATION = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, _OPPOSITES), key=len, reverse=True)) + r")\b"
)
_JOINED = re.compile(r"[\s,-]*(?:(?:and|or|a|an|the)[\s-]+)*")
_LAST_ARTICLE = re.compile(r"\ban?(?=\s+$)", re.IGNORECASE)
_WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")

KINDS = ("noun", "color", "number", "relation")
"""What training draws from."""
SWAP_KINDS = ("noun", "adjective", "number", "relation")
"""What an evaluation asks for; `adjective` exchanges any two of `ADJECTIVES`, colours included."""


def find_nouns(captions: Iterable[str], least: int = 5, share: float = 0.3) -> frozenset[str]:
    """Words used as nouns in `captions`.

    A use is: after a determiner and any adjectives of the list above, and before a word that
    follows nouns, a word in -ing, or the end.

    Args:
        captions: English texts.
        least: fewest such uses.
        share: of all uses of the word, at least.

    Example:
        >>> sorted(find_nouns(["a black dog runs at the ball ."] * 5))
        ['ball']
    """
    used: Counter[str] = Counter()
    all_uses: Counter[str] = Counter()
    for caption in captions:
        words = _WORD.findall(caption.lower())
        all_uses.update(words)
        for place, word in enumerate(words):
            if _noun_here(words, place):
                used[word] += 1
    closed = DETERMINERS | ADJECTIVES | _AFTER_NOUN | NUMBERS
    return frozenset(
        word for word, count in used.items()
        if count >= least and count >= share * all_uses[word]
        and len(word) > 2 and word.isalpha() and word not in closed
        and not (word.endswith("ing") and len(word) > 4)
    )  # fmt: skip


def _noun_here(words: Sequence[str], place: int) -> bool:
    before = place - 1
    while before >= 0 and words[before] in ADJECTIVES:
        before -= 1
    if before < 0 or words[before] not in DETERMINERS:
        return False
    after = words[place + 1] if place + 1 < len(words) else "."
    return after in _AFTER_NOUN or (after.endswith("ing") and len(after) > 4)


def exchange(caption: str, words: Collection[str], rng: Random) -> str | None:
    """`caption` with two different words of a class exchanged; None where it has fewer than two.

    Words that "and", "or" or a comma joins mean the same in either order and stay.

    Example:
        >>> exchange("a black dog and a white cat", COLORS, Random(0))
        'a white dog and a black cat'
    """
    found = [m for m in re.finditer(r"\w+", caption) if m.group().lower() in words]
    pairs = [
        (a, b) for i, a in enumerate(found) for b in found[i + 1 :]
        if a.group().lower() != b.group().lower()
        and not _JOINED.fullmatch(caption[a.end() : b.start()].lower())
    ]  # fmt: skip
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    first, second = _as_cased(b.group(), a.group()), _as_cased(a.group(), b.group())
    before = _with_article(caption[: a.start()], first)
    between = _with_article(caption[a.end() : b.start()], second)
    return before + first + between + second + caption[b.end() :]


def exchange_things(caption: str) -> str | None:
    """`caption` with its first two things exchanged: article, adjectives, noun. None without two.

    Example:
        >>> exchange_things("a small red star left of a blue ring")
        'a blue ring left of a small red star'
    """
    found = [*_WORD.finditer(caption)]
    words = [match.group().lower() for match in found]
    spans: list[tuple[int, int]] = []
    for place, word in enumerate(words):
        if word.isalpha() and word not in _AFTER_NOUN | ADJECTIVES and _noun_here(words, place):
            first = place - 1
            while words[first] in ADJECTIVES:
                first -= 1
            spans.append((found[first].start(), found[place].end()))
    pairs = [
        (a, b) for i, a in enumerate(spans) for b in spans[i + 1 :]
        if not _JOINED.fullmatch(caption[a[1] : b[0]].lower())
    ]  # fmt: skip
    if not pairs:
        return None
    a, b = pairs[0]
    first, second = caption[a[0] : a[1]], caption[b[0] : b[1]]
    if first.lower() == second.lower():
        return None
    swapped = second[0].upper() + second[1:] if first[0].isupper() else second
    back = first[0].lower() + first[1:] if second[0].islower() else first
    return caption[: a[0]] + swapped + caption[a[1] : b[0]] + back + caption[b[1] :]


def invert(caption: str, rng: Random) -> str | None:
    """`caption` with one relation turned into its opposite; None where there is none.

    Example:
        >>> invert("a dog in front of a house", Random(0))
        'a dog behind a house'
    """
    found = [*_RELATION.finditer(caption)]
    if not found:
        return None
    match = rng.choice(found)
    return caption[: match.start()] + _OPPOSITES[match.group()] + caption[match.end() :]


def _with_article(text: str, word: str) -> str:
    """`text` with its last word, where that is "a" or "an", as `word` after it wants it."""
    article = "an" if word[:1].lower() in "aeiou" else "a"
    return _LAST_ARTICLE.sub(lambda m: _as_cased(article, m.group()), text)


def _as_cased(word: str, like: str) -> str:
    return word.capitalize() if like[:1].isupper() else word.lower()


def hard_negative(
    caption: str, nouns: Collection[str], rng: Random, kinds: Sequence[str] = KINDS
) -> tuple[str, str] | None:
    """A wrong caption made of the right one, and its kind; a kind is drawn among those that apply.

    Args:
        caption: the right one.
        nouns: what `find_nouns` returned.
        rng: draws the kind and the words.
        kinds: the kinds allowed, of `KINDS` and `SWAP_KINDS`.

    Returns:
        (kind, caption), or None where no kind applies.

    Raises:
        ValueError: an unknown kind.
    """
    makers: dict[str, Callable[[], str | None]] = {
        "noun": lambda: exchange(caption, nouns, rng),
        "color": lambda: exchange(caption, COLORS, rng),
        "adjective": lambda: exchange(caption, ADJECTIVES, rng),
        "number": lambda: exchange(caption, NUMBERS, rng),
        "relation": lambda: invert(caption, rng),
    }
    unknown = [kind for kind in kinds if kind not in makers]
    if unknown:
        raise ValueError(f"got kind {unknown[0]!r}, expected one of {[*makers]}")
    for kind in rng.sample([*kinds], len(kinds)):
        wrong = makers[kind]()
        if wrong is not None and wrong != caption:
            return kind, wrong
    return None


def swaps_of(caption: str) -> list[str]:
    """What `caption` is most easily mistaken for, one wrong caption of each kind: two things, two
    hues or two numbers exchanged, a relation turned round.

    The same caption gives the same swaps; none for one without two things or a relation.

    Example:
        >>> swaps_of("a red star left of a blue ring")
        ['a blue ring left of a red star', 'a blue star left of a red ring', \
'a red star right of a blue ring']
    """
    rng = Random(caption)
    made = [
        exchange_things(caption),
        exchange(caption, HUES, rng),
        exchange(caption, NUMBERS, rng),
        invert(caption, rng),
    ]
    return list(dict.fromkeys(text for text in made if text is not None))


def hard_negatives(
    captions: Sequence[str], nouns: Collection[str], seed: int = 0, kinds: Sequence[str] = KINDS
) -> list[tuple[str, str] | None]:
    """`hard_negative` of each caption; caption i's depends on its own text and `seed` alone."""
    return [hard_negative(c, nouns, Random(f"{seed}:{c}"), kinds) for c in captions]
