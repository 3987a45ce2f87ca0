"""Queries as arithmetic on texts and images: `beach + dog.jpg - people`, `2*snow - 0.5*"a car"`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from clipguide.clip.finite import check_finite
from clipguide.clip.scorer import Scorer
from clipguide.images import SUFFIXES

_SIGN = re.compile(r'\s*(?:("[^"]*")|(?<!\S)([+-])(?!\S))\s*')  # a quoted text, or a lone + or -
_WEIGHT = re.compile(r"(\d+\.?\d*|\.\d+)\s*\*\s*(.*)", re.DOTALL)
_PREFIX = re.compile(r"(text|image):(.*)", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """A text or an image (its path), and its weight; a negative one is stayed away from."""

    value: str
    weight: float = 1.0
    kind: Literal["text", "image"] = "text"


def parse_query(query: str) -> tuple[Term, ...]:
    """The terms of a query.

    Terms are joined by + and - with spaces around them; `NUMBER*` before a term weighs it. A term
    that ends like an image file (`.jpg`) is one, any other is a text; `image:` and `text:` before
    it say so, and what is in double quotes is a text as it stands.

    Raises:
        ValueError: an empty query or term, or two signs in a row.

    Example:
        >>> [term.value for term in parse_query("beach + dog.jpg - people")]
        ['beach', 'dog.jpg', 'people']
    """
    terms: list[Term] = []
    sign, words = 1.0, ""
    for word in _split(query):
        if word in ("+", "-"):
            if words or terms:  # before the first term a sign may stand alone
                terms.append(_term(words, sign, query))
                words = ""
            elif sign < 0:
                raise ValueError(f"got query {query!r}, expected a term between two signs")
            sign = 1.0 if word == "+" else -1.0
        else:
            words = f"{words} {word}".strip()
    return (*terms, _term(words, sign, query))


def _split(query: str) -> list[str]:
    return [part for part in _SIGN.split(query) if part and part.strip()]


def _term(words: str, sign: float, query: str) -> Term:
    weight = sign
    if match := _WEIGHT.fullmatch(words):
        weight, words = sign * float(match[1]), match[2]
    quoted = len(words) >= 2 and words[0] == words[-1] == '"'
    if quoted:
        words = words[1:-1]
    kind: Literal["text", "image"] = "text"
    if not quoted and (match := _PREFIX.fullmatch(words)):
        kind, words = ("image" if match[1] == "image" else "text"), match[2].strip()
    elif not quoted and Path(words).suffix.lower() in SUFFIXES:
        kind = "image"
    if not words.strip():
        raise ValueError(f"got query {query!r} with an empty term, expected a text or an image")
    return Term(words, weight, kind)


def embed_query(terms: Sequence[Term], scorer: Scorer) -> Tensor:
    """(D,) float32: the weighted sum of the terms' unit vectors, made a unit vector.

    Cost: one text or image pass per term.

    Raises:
        ValueError: terms that cancel each other out, a weight that is not finite; `ImageError` for
            an image not readable.
    """
    total = torch.zeros(scorer.embed_dim, device=scorer.device)
    for term in terms:
        encode = scorer.encode_image if term.kind == "image" else scorer.encode_text
        total = total + term.weight * encode([term.value])[0]
    length = check_finite(total, f"weights or vectors of query {[t.value for t in terms]}").norm()
    if float(length) < 1e-6:
        raise ValueError("got a query whose terms cancel each other out, expected a direction")
    return (total / length).cpu()
