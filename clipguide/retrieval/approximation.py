"""How many of the right answers an approximate index finds, asked with texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipguide.clip.scorer import Scorer
from clipguide.data.captions import read_captions
from clipguide.retrieval.index import ApproximateIndex, Index, open_index

TOP = 10
MOST = 1000
"""Texts that are asked at most."""

_WHO = ("a dog", "a child", "two people", "a crowd", "a red car", "a bird", "a building", "a meal")
_WHERE = (
    "on grass",
    "in the snow",
    "at the beach",
    "in the street",
    "by a river",
    "at night",
    "indoors",
    "under a blue sky",
)
SENTENCES = tuple(f"{who} {where}" for who in _WHO for where in _WHERE)
"""What is asked when there are no captions."""


@dataclass(frozen=True)
class Approximation:
    """Recall of an approximate index against exact search of the same vectors.

    Attributes:
        recall: share of the exact search's first `TOP` that the index has among its first `TOP`,
            mean over the queries.
        queries: how many texts were asked.
        texts: where they are from.
    """

    recall: float
    queries: int
    texts: str


def measure_approximation(
    index: Index, scorer: Scorer, captions: str | Path | None = None
) -> Approximation | None:
    """Ask an index and an exact search of its vectors the same texts; None if it is exact itself.

    Texts, not images of the index: the nearest vector of an indexed image is its own, which any
    index finds; a text lies away from all images, and its neighbours in many cells.

    Args:
        index: as `open_index` gives it.
        scorer: its model.
        captions: a file of captions (of any images), of which at most `MOST` are asked, evenly
            chosen; by default the 64 `SENTENCES`.

    Cost: one text pass per query, two searches, one of them of all vectors.

    Raises:
        ValueError: what `read_captions` raises; `WrongModel`.
    """
    if not isinstance(index, ApproximateIndex):
        return None
    index.manifest.check(scorer)
    texts = SENTENCES if captions is None else tuple(c.text for c in read_captions(captions))
    texts = tuple(dict.fromkeys(texts))
    texts = texts[:: -(-len(texts) // MOST)]
    queries = scorer.encode_text(texts).cpu()
    truth = open_index(index.folder, exact=True).nearest(queries, TOP)
    found = index.nearest(queries, TOP)
    shares = [
        len({id_ for _, id_ in some} & {id_ for _, id_ in right}) / len(right)
        for some, right in zip(found, truth, strict=True)
    ]
    source = "built-in sentences" if captions is None else f"captions of {captions}"
    return Approximation(sum(shares) / len(shares), len(texts), source)
