"""Order finished images by how well they follow a prompt; several scorers make a cascade."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from torch import Tensor

from clipguide.clip.image_arrays import Array, name_of
from clipguide.clip.loading import load_scorer
from clipguide.images import ImageSource

Images: TypeAlias = Tensor | Array | Sequence[ImageSource | Tensor | Array]


class ImageScorer(Protocol):
    """What `rerank` asks of a scorer; `clipguide.Scorer` is one."""

    @property
    def name(self) -> str: ...

    def score(self, images: Images, prompts: str) -> Tensor: ...  # (B,), higher is better


@dataclass(frozen=True)
class Ranked:
    """One image of a ranking: its place among the images given, its score, and who gave it."""

    index: int
    score: float
    image: ImageSource | Tensor | Array  # as it was given; of a tensor a row (3, H, W)
    scorer: str = ""  # scores of different scorers are not on one scale


ScorerLike: TypeAlias = ImageScorer | str | Path


def rerank(
    images: Images,
    prompt: str,
    scorer: ScorerLike | Sequence[ScorerLike],
    top_k: int | None = None,
    *,
    keep: int | Sequence[int] | None = None,
) -> list[Ranked]:
    """The images ordered by score against `prompt`, best first; ties keep the order given.

    Several scorers are a cascade, the cheapest first: each sees only the images that the one before
    it kept, and the last one decides the order of those that reached it. Images dropped on the way
    follow, those dropped last first, each with the score that dropped it.

    Args:
        images: PIL images, paths, tensors (3, H, W) or arrays (H, W, 3) in a list, or a batch:
            a float tensor (B, 3, H, W) in [0, 1], an array (B, H, W, 3) of uint8 or such floats.
        prompt: one text, not empty.
        scorer: a `Scorer`, a name for `load_scorer`, or a sequence of these.
        top_k: how many to return; all by default.
        keep: how many go on after each scorer but the last: one number, or one for each.
            By default a quarter (rounded up), and at least `top_k`.

    Cost: one image embedding per image per scorer that sees it, and one text embedding per scorer.
    Raises: ValueError for a bad argument or a score that is not finite, ImageError for a file that
        cannot be read.
    Example: `rerank(paths, "a red fox", ["starter", "starter:judge"], top_k=1, keep=1)`
    """
    if not prompt.strip():
        raise ValueError("got an empty prompt, expected a text to rank by")
    if top_k is not None and top_k < 1:
        raise ValueError(f"got top_k={top_k}, expected at least 1")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise ValueError(f"got images of shape {images.shape}, expected (B, H, W, 3)")
    scorers = _load(scorer)
    kept = _keep(keep, len(images), len(scorers), top_k)
    alive, ranked = list(range(len(images))), list[Ranked]()
    for member, limit in zip(scorers, kept, strict=True):
        stage = _stage(images, alive, prompt, member)
        ranked = stage + ranked[len(stage) :]
        alive = sorted(row.index for row in stage[:limit])
    return ranked[:top_k]


def _stage(images: Images, alive: list[int], prompt: str, scorer: ImageScorer) -> list[Ranked]:
    if not alive:
        return []
    whole = isinstance(images, Tensor | np.ndarray)
    chosen: Images = images[alive] if whole else [images[i] for i in alive]
    scores: list[float] = scorer.score(chosen, prompt).tolist()
    for i, value in zip(alive, scores, strict=True):
        if not math.isfinite(value):  # NaN compares with nothing: there would be no order
            whose = name_of(images[i], i)
            raise ValueError(f"{scorer.name}: got score {value} for {whose}, expected a number")
    rows = [Ranked(i, s, images[i], scorer.name) for i, s in zip(alive, scores, strict=True)]
    return sorted(rows, key=lambda row: (-row.score, row.index))


def _load(scorer: ScorerLike | Sequence[ScorerLike]) -> list[ImageScorer]:
    listed = scorer if isinstance(scorer, Sequence) and not isinstance(scorer, str) else [scorer]
    if not listed:
        raise ValueError("got no scorer, expected at least one")
    return [load_scorer(s) if isinstance(s, str | os.PathLike) else s for s in listed]


def _keep(
    keep: int | Sequence[int] | None, images: int, scorers: int, top_k: int | None
) -> list[int]:
    """How many images each scorer lets through; the last one lets all through."""
    if keep is None:
        keep = max(math.ceil(images / 4), top_k or 1)
    kept = [keep] * (scorers - 1) if isinstance(keep, int) else list(keep)
    if len(kept) != scorers - 1:
        expected = f"expected {scorers - 1}: one per scorer but the last"
        raise ValueError(f"got {len(kept)} numbers in keep, {expected}")
    low = min(kept, default=1)
    if low < 1:
        raise ValueError(f"got keep={low}, expected at least 1")
    if top_k is not None and any(k < min(top_k, images) for k in kept):
        raise ValueError(f"got keep={min(kept)}, expected at least top_k={top_k}")
    return [*kept, images]
