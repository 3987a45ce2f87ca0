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
    r"\b(" + "|".join(sorted(map(re.escape, _OPPOSITES), key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)
# "left" and "right" are places before "of" or a pause, and after "to the", "on its", ...
_SIDE_BEFORE = re.compile(r"\b(?:to|on|at|from) (?:the|its|his|her|their) $", re.IGNORECASE)
_SIDE_AFTER = re.compile(r" of\b|\s*(?:[.,;!?]|$)", re.IGNORECASE)
_JOINED = re.compile(r"[\s,-]*(?:(?:and|or|a|an|the)[\s-]+)*")
# what is near, beside or with another thing is so in either order
_SYMMETRIC = re.compile(
    r"[\s,]*(?:(?:is|are|sits?|sitting|stands?|standing|right|close|next to|beside|near|by|to|"
    r"alongside|and|or)[\s,]+)*"
)
_LAST_ARTICLE = re.compile(r"\ban?(?=\s+$)", re.IGNORECASE)
# an article goes by the sound, which the first letter of these does not tell
_CONSONANT_SOUND = re.compile(
    r"(?:uni(?:t|on|form|corn|cycle|vers)|us[aeiu]|eu|one\b)", re.IGNORECASE
)
_VOWEL_SOUND = re.compile(r"(?:[aeiou]|hour|honest|heir)", re.IGNORECASE)
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


def find_things(caption: str) -> list[tuple[int, int]]:
    """Where `caption`'s things begin and end: article or number, adjectives, noun.

    Not a thing is what has a thing ("a photo of a dog", "a pair of shoes").
    """
    found = [*_WORD.finditer(caption)]
    words = [match.group().lower() for match in found]
    spans: list[tuple[int, int]] = []
    for place, word in enumerate(words):
        after = words[place + 1 : place + 3]
        holder = after[:1] == ["of"] or after == ["up", "of"]  # "a close up of"
        thing = word.isalpha() and word not in _AFTER_NOUN | ADJECTIVES and not holder
        if thing and _noun_here(words, place):
            first = place - 1
            while words[first] in ADJECTIVES:
                first -= 1
            spans.append((found[first].start(), found[place].end()))
    return spans


def exchange_things(caption: str) -> str | None:
    """`caption` with its first two things exchanged: article, adjectives, noun. None without two.

    Two things that "and", "next to", "near" or the like joins stay: the caption would be as true.

    Example:
        >>> exchange_things("a small red star left of a blue ring")
        'a blue ring left of a small red star'
    """
    spans = find_things(caption)
    pairs = [
        (a, b) for i, a in enumerate(spans) for b in spans[i + 1 :]
        if not _SYMMETRIC.fullmatch(caption[a[1] : b[0]].lower())
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
    found = [match for match in _RELATION.finditer(caption) if _relates(match)]
    if not found:
        return None
    match = rng.choice(found)
    opposite = _as_cased(_OPPOSITES[match.group().lower()], match.group())
    return caption[: match.start()] + opposite + caption[match.end() :]


def _relates(match: re.Match[str]) -> bool:
    """Whether a word found is a relation: not "he left home", "a right angle", "a close up of"."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    word = match.group().lower()
    if word in ("left", "right"):
        return bool(_SIDE_BEFORE.search(before) or _SIDE_AFTER.match(after))
    return word not in ("up", "down") or not after.lower().startswith(" of ")


def _with_article(text: str, word: str) -> str:
    """`text` with its last word, where that is "a" or "an", as `word` after it wants it."""
    vowel = _VOWEL_SOUND.match(word) and not _CONSONANT_SOUND.match(word)
    article = "an" if vowel else "a"
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
    """What `caption` is most easily mistaken for, at most one text of each kind: two things, two
    hues or two numbers exchanged, a relation turned round.

    By rules for English, which can miss and can go wrong: a text that is as true as `caption` takes
    some of its probability. The same caption gives the same swaps; none for one without two things
    or a relation.

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
