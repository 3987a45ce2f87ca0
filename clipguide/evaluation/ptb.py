"""Words of a caption as the COCO evaluation counts them: Penn Treebank tokens, without Java.

The COCO code runs Stanford's PTBTokenizer 3.4.1 (`-preserveLines -lowerCase`) and then drops
punctuation. The rules of it that English captions meet are here; its results for the 40,455
captions of Flickr8k are the same word for word (tests/test_caption_metrics.py has others).
"""

from __future__ import annotations

import re

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
     "...", ";")
)  # fmt: skip
"""Tokens that the COCO code drops. Its brackets are in capitals where the tokens are not, so that
brackets stay, as "-lrb-" and "-rrb-"."""

_ABBREVIATIONS = (
    "mr|mrs|ms|messrs|dr|prof|rev|gen|sen|rep|gov|lt|col|maj|capt|sgt|cpl|pvt|adm|pres|hon|st|sts"
    "|mt|ft|ave|blvd|rd|jr|sr|inc|ltd|corp|co|bros|vs|etc|e\\.g|i\\.e|a\\.m|p\\.m|u\\.s|u\\.k"
    "|jan|feb|mar|apr|aug|sept|sep|oct|nov|dec"
)
_TWO_WORDS = (
    ("cannot", 3), ("gonna", 3), ("gotta", 3), ("lemme", 3), ("gimme", 3), ("wanna", 3),
)  # fmt: skip
_SPLIT = {word: (word[:at], word[at:]) for word, at in _TWO_WORDS}
_CLITIC = "(?:'|\u2019)(?:[sS]|[dD]|[mM]|[lL][lL]|[rR][eE]|[vV][eE])(?![A-Za-z])"
_LETTERS = "[^\\W\\d_]"
_TOKEN = re.compile(
    "|".join(
        (
            r"</?[A-Za-z][^<>]*>",
            r"https?://[^\s\"'<>]+[^\s\"'<>.,;:!?)]",
            r"[#@][A-Za-z]\w*",
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
            r"(?:[A-Za-z]\.){2,}",  # U.S.
            rf"(?i:\b(?:{_ABBREVIATIONS})\.)(?!\w)|(?i:\bno\.)(?=\s*\d)",
            r"\b[A-Z]\.(?=\s|$)",  # an initial
            r"[A-Za-z][A-Za-z0-9-]*(?:\.[A-Za-z][A-Za-z0-9-]*)+",  # a.b without a space
            r"(?i:'n'(?!\d))|'\d0s",
            r"(?i:'t(?=is\b|was\b))",
            r"C\+\+|C#",
            rf"{_CLITIC}",
            rf"(?i:{_LETTERS}+(?=n['\u2019]t\b))",  # do n't
            r"(?i:n['\u2019]t\b)",
            r"(?i:o['\u2019]clock\b|\bma['\u2019]am\b|\b[odl]['\u2019][A-Za-z]{2,}|y['\u2019](?=all\b))",
            r"\d+(?:[.,:]\d+)*(?:-[^\W_]+)*%?(?=%)|\d+/\d+",
            r"\d+(?:[.,:]\d+)+",
            r"[^\W_]+(?:-[^\W_]+)*(?:/[^\W_]+(?:-[^\W_]+)*)+",
            r"[A-Z]+&[A-Z]+",
            r"[^\W_]+(?:[-_][^\W_]+)*",
            r"\.{3,}|--+|``|''|&amp;|[?!]{2,}",
            r"[^\s\U00010000-\U0010ffff]",  # no emoji
        )
    )
)
_WRITTEN = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
            "&amp;": "&", '"': "''", "\u201c": "``", "\u201d": "''", "\u2018": "`", "\u2019": "'",
            "\u2013": "--", "\u2014": "--", "\u2026": "..."}  # fmt: skip


def ptb_tokens(caption: str) -> list[str]:
    """The words of a caption in small letters, punctuation left out.

    Example:
        >>> ptb_tokens('A man\\'s dog doesn\\'t jump, it "sits".')
        ['a', 'man', "'s", 'dog', 'does', "n't", 'jump', 'it', 'sits']
    """
    tokens: list[str] = []
    found: list[str] = _TOKEN.findall(caption.replace("\n", " "))
    for piece in found:
        token = _WRITTEN.get(piece, piece).lower().replace("\u2019", "'")
        if len(token) > 3 and set(token) == {"."}:
            token = "..."
        tokens += _SPLIT.get(token, (token,))
    return [token for token in tokens if token not in PUNCTUATION]
