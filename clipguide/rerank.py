"""Order finished images by how well they follow a prompt; several scorers make a cascade."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipguide.clip.image_arrays import Array, name_of
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import check_prompts
from clipguide.images import ImageSource, list_images

Images: TypeAlias = Tensor | Array | Sequence[ImageSource | Tensor | Array]


class ImageScorer(Protocol):
    """What `rerank` asks of a scorer; `clipguide.Scorer` is one."""

    @property
    def name(self) -> str: ...

    def score(self, images: Images, prompts: str) -> Tensor: ...  # (B,), higher is better


@runtime_checkable
class Embeds(Protocol):
    """A scorer that hands out the unit vectors of images, as diversity needs them."""

    def encode_image(self, images: Images) -> Tensor: ...  # (B, D)


@dataclass(frozen=True)
class Ranked:
    """One image of a ranking: its place among the images given, its score, and who gave it."""

    index: int
    score: float
    image: ImageSource | Tensor | Array  # as it was given; of a tensor a row (3, H, W)
    scorer: str = ""  # scores of different scorers are not on one scale


ScorerLike: TypeAlias = ImageScorer | str | Path


def rerank(
    images: Images | ImageSource,
    prompt: str,
    scorer: ScorerLike | Sequence[ScorerLike],
    top_k: int | None = None,
    *,
    keep: int | Sequence[int] | None = None,
    diversity: float = 0.0,
) -> list[Ranked]:
    """The images ordered by score against `prompt`, best first; ties keep the order given.

    Several scorers are a cascade, the cheapest first: each sees only the images that the one before
    it kept, and the last one decides the order of those that reached it. Images dropped on the way
    follow, those dropped last first, each with the score that dropped it.

    Args:
        images: PIL images, paths, tensors (3, H, W) or arrays (H, W, 3) in a list, or a batch:
            a float tensor (B, 3, H, W) in [0, 1], an array (B, H, W, 3) of uint8 or such floats;
            or the path of a folder, whose image files are meant (`clipguide.images.list_images`).
        prompt: one text, not empty.
        scorer: a `Scorer`, a name for `load_scorer`, or a sequence of these.
        top_k: how many to return; all by default.
        keep: how many go on after each scorer but the last: one number, or one for each.
            By default a quarter of what it saw (rounded up), and at least `top_k`.
        diversity: d in [0, 1]: among the images that reach the last scorer the next is always the
            one of largest (1-d)·score - d·(largest cosine to one ranked before), maximal marginal
            relevance (Carbonell and Goldstein 1998, https://doi.org/10.1145/290941.291025), so
            that near copies of the best come late. 0 is the order by score alone.

    Cost: one image embedding per image per scorer that sees it, and one text embedding per scorer;
        with diversity another image embedding per image by the last scorer, none where it is a
        `clipguide.clip.kept_vectors.KeptVectors`.
    Raises: ValueError for a bad argument or a score that is not finite, ImageError for a file that
        cannot be read.
    Example: `rerank(paths, "a red fox", ["starter", "starter:judge"], top_k=1, keep=1)`
    """
    check_prompts([prompt])
    top_k = None if top_k is None else _whole("top_k", top_k)
    if not (isinstance(cast("Any", diversity), int | float) and 0 <= diversity <= 1):
        raise ValueError(f"got diversity={diversity!r}, expected a number in [0, 1]")
    images = _listed(images)
    scorers = _load(scorer)
    kept = _keep(keep, len(images), len(scorers), top_k)
    alive, ranked, last = list(range(len(images))), list[Ranked](), list[Ranked]()
    for member, limit in zip(scorers, kept, strict=True):
        stage = _stage(images, alive, prompt, member)
        ranked = stage + ranked[len(stage) :]
        last = stage
        alive = sorted(row.index for row in stage[:limit])
    if diversity > 0:
        ranked = _diverse(images, last, scorers[-1], diversity) + ranked[len(last) :]
    return ranked[:top_k]


def rerank_groups(
    rows: Sequence[tuple[str, ImageSource | Tensor | Array]],
    scorer: ScorerLike | Sequence[ScorerLike],
    top_k: int | None = None,
    *,
    keep: int | Sequence[int] | None = None,
    diversity: float = 0.0,
) -> dict[str, list[Ranked]]:
    """`rerank` of the images of each prompt of a table, in the order that prompts come first.

    Args:
        rows: (prompt, image), in any order; `Ranked.index` is the row of the table.
        scorer, top_k, keep, diversity: as of `rerank`, of each group; scorers are loaded once.

    Cost and errors: those of `rerank` for each prompt; an image that several prompts have is
        embedded once by a `clipguide.clip.kept_vectors.KeptVectors`.
    Example: `rerank_groups([("a fox", file) for file in paths], "starter", top_k=1)`
    """
    scorers = _load(scorer)
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if not (isinstance(cast("Any", row), tuple | list) and len(row) == 2):
            raise ValueError(f"got row {place} of the table {row!r}, expected (prompt, image)")
        if not isinstance(cast("Any", row[0]), str):
            got = type(row[0]).__name__
            raise ValueError(f"got a prompt of type {got} in row {place}, expected (prompt, image)")
        places.setdefault(row[0], []).append(place)
    found: dict[str, list[Ranked]] = {}
    for prompt, own in places.items():
        images = [rows[place][1] for place in own]
        ranked = rerank(images, prompt, scorers, top_k, keep=keep, diversity=diversity)
        found[prompt] = [replace(row, index=own[row.index]) for row in ranked]
    return found


def _listed(images: Images | ImageSource) -> Images:
    """What a folder, or a single picture, stands for."""
    if isinstance(images, str | os.PathLike):
        found = list_images([images])
        if not found:
            raise ValueError(f"{images}: no image files there")
        return found
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise ValueError(f"got images of shape {images.shape}, expected (B, H, W, 3)")
    return images


def _whole(name: str, value: Any) -> int:
    good = isinstance(value, int | float | np.integer) and not isinstance(value, bool)
    if not (good and math.isfinite(value) and int(value) == value and value >= 1):
        raise ValueError(f"got {name}={value!r}, expected a whole number, at least 1")
    return int(value)


def _diverse(
    images: Images, stage: list[Ranked], scorer: ImageScorer, diversity: float
) -> list[Ranked]:
    """Maximal marginal relevance: a stage's images in another order."""
    if not isinstance(scorer, Embeds):
        raise ValueError(f"{scorer.name}: got diversity with a scorer that has no vectors")
    if not stage:
        return []
    left = [*stage]
    vectors = scorer.encode_image(_chosen(images, [row.index for row in left])).detach()  # (N, D)
    scores = vectors.new_tensor([row.score for row in left])
    nearest = vectors.new_full((len(left),), -math.inf)  # to one ranked before
    taken = torch.zeros(len(left), dtype=torch.bool, device=vectors.device)
    order: list[Ranked] = []
    while len(order) < len(left):
        value = (1 - diversity) * scores
        if order:
            value = value - diversity * nearest
        best = int(value.masked_fill(taken, -math.inf).argmax())  # of equal ones the first
        taken[best] = True
        order.append(left[best])
        nearest = nearest.maximum(vectors @ vectors[best])
    return order


def _chosen(images: Images, places: list[int]) -> Images:
    whole = isinstance(images, Tensor | np.ndarray)
    return images[places] if whole else [images[i] for i in places]


def _stage(images: Images, alive: list[int], prompt: str, scorer: ImageScorer) -> list[Ranked]:
    if not alive:
        return []
    scores: list[float] = scorer.score(_chosen(images, alive), prompt).tolist()
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
    for one in listed:
        if not isinstance(one, str | os.PathLike) and not hasattr(one, "score"):
            got = type(one).__name__
            raise ValueError(f"got a scorer of type {got}, expected a Scorer or a name of one")
    return [load_scorer(s) if isinstance(s, str | os.PathLike) else s for s in listed]


def default_keep(images: int, top_k: int | None = None) -> int:
    """How many go on of the images that a scorer of a cascade saw: a quarter, rounded up, and at
    least `top_k`."""
    return max(math.ceil(images / 4), top_k or 1)


def _keep(
    keep: int | Sequence[int] | None, images: int, scorers: int, top_k: int | None
) -> list[int]:
    """How many images each scorer lets through; the last one lets all through."""
    if keep is None:
        kept = [images]
        while len(kept) < scorers:
            kept.append(default_keep(kept[-1], top_k))
        return [*kept[1:], images]
    several = isinstance(keep, Sequence) and not isinstance(cast("Any", keep), str)
    given: Sequence[Any] = cast("Any", keep) if several else [keep] * (scorers - 1)
    kept = [_whole("keep", one) for one in given]
    if len(kept) != scorers - 1:
        expected = f"expected {scorers - 1}: one per scorer but the last"
        raise ValueError(f"got {len(kept)} numbers in keep, {expected}")
    if top_k is not None and any(k < min(top_k, images) for k in kept):
        raise ValueError(f"got keep={min(kept)}, expected at least top_k={top_k}")
    return [*kept, images]
