"""How good an index's answers are, measured with captions whose images it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.data.captions import read_captions
from clipguide.data.matching import match_captions
from clipguide.retrieval.index import Index

TOP = 10


@dataclass(frozen=True)
class Assessment:
    """The first `TOP` hits of every caption; of every second caption the image counts as absent.

    Attributes:
        probabilities: (Q, TOP) float64, as the index gives them; 0 where there are fewer hits.
        right: (Q, TOP) bool: whether the hit is the caption's image.
        present: (Q,) bool: whether its image counted as being in the index.
        recall: share of all captions whose image is among the first `TOP` when it is present.
    """

    probabilities: Tensor
    right: Tensor
    present: Tensor
    recall: float

    def at(self, min_p: float) -> tuple[float | None, float]:
        """Precision and recall of the hits with at least `min_p`.

        Precision: the share of them that is right (None without any). Recall: the share of captions
        with a present image that find it.
        """
        shown = self.probabilities >= min_p
        found = shown & self.right
        count = int(shown.sum())
        precision = int(found.sum()) / count if count else None
        return precision, int(found.any(dim=1).sum()) / max(int(self.present.sum()), 1)


def labelled_captions(
    index: Index, captions: str | Path, least: int
) -> tuple[list[str], list[int]]:
    """Texts, and the content each belongs to, of the captions whose images are in the index.

    Raises:
        ValueError: what `read_captions` raises; fewer than `least`; an index of captions.
    """
    if index.manifest.kind != "images":
        raise ValueError(f"{index.folder}: an index of {index.manifest.kind}, expected images")
    items = index.catalog.items()
    found = match_captions(read_captions(captions), [Path(p) for p in items], [Path()])
    pairs = [(t, items[path.as_posix()]) for path, some in found.texts.items() for t in some]
    if len(pairs) < least:
        expected = f"expected at least {least} captions of indexed images"
        raise ValueError(f"{captions}: got {len(pairs)}, {expected}")
    return [text for text, _ in pairs], [content for _, content in pairs]


def assess(index: Index, captions: str | Path, scorer: Scorer) -> Assessment:
    """Ask the index each caption; for every second image as if it were not there.

    Whether an image counts as absent alternates by its content's id, so all captions of an image
    are treated alike. Its vector stays in the null distribution.

    Cost: one text pass per caption, one search.

    Raises:
        ValueError: see `labelled_captions`; no caption of an indexed image; `WrongModel`.
    """
    index.manifest.check(scorer)
    texts, own = labelled_captions(index, captions, least=1)
    queries = scorer.encode_text(texts).cpu()
    answers = index.nearest(queries, TOP + 1)
    place = {content: number for number, content in enumerate(sorted(set(own)))}
    present = torch.tensor([place[content] % 2 == 0 for content in own])
    chances = torch.zeros(len(own), TOP, dtype=torch.float64)
    right = torch.zeros(len(own), TOP, dtype=torch.bool)
    found = 0
    for row, (query, answer, mine) in enumerate(zip(queries, answers, own, strict=True)):
        found += any(id_ == mine for _, id_ in answer[:TOP])
        hits = _without(answer, None if present[row] else mine)
        values = index.calibration.probabilities([cosine for cosine, _ in hits], query)
        chances[row, : len(hits)] = torch.tensor(values, dtype=torch.float64)
        right[row, : len(hits)] = torch.tensor([id_ == mine for _, id_ in hits])
    return Assessment(chances, right, present, found / len(own))


def _without(answer: Sequence[tuple[float, int]], absent: int | None) -> list[tuple[float, int]]:
    return [hit for hit in answer if hit[1] != absent][:TOP]
