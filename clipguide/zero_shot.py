"""Zero-shot classification, and matching of images with texts.

A label is the one whose description lies nearest to the image.

Radford et al. 2021 (arXiv:2103.00020), section 3.1: a label is the mean of the unit vectors of its
prompts (one per template), made a unit vector again; probabilities are the softmax of the model's
logits over the labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from clipguide.batching import batches
from clipguide.clip.finite import check_finite
from clipguide.clip.scorer import Images, Scorer
from clipguide.data.templates import TEMPLATES


@dataclass(frozen=True)
class Prediction:
    """One label of one image: its probability among the labels, and its plain cosine."""

    label: str
    probability: float
    cosine: float


def classify(
    scorer: Scorer,
    images: Images,
    labels: Sequence[str],
    templates: Sequence[str] | str = TEMPLATES["plain"],
    top_k: int = 5,
    *,
    scale: float | None = None,
) -> list[list[Prediction]]:
    """The `top_k` likeliest labels of each image, likeliest first, ties in the labels' order.

    Args:
        scorer: the CLIP that compares.
        images: as `Scorer.encode_image` takes them.
        labels: different, not empty; probabilities are among these.
        templates: prompts with {} for the label, or the name of a set in `TEMPLATES`.
        top_k: predictions per image; all labels when there are fewer.
        scale: factor on cosines before the softmax, instead of the model's own `logit_scale`;
            `clipguide.evaluation.confusion.fit_scale` finds it from images with known labels.

    Cost: one text pass per label and template, once for as long as the labels stay the same (see
        `label_vectors`), so that images can come in batches; one image pass per image.

    Raises:
        ValueError: no labels, the same label twice, an empty one, a template without {},
            `top_k` below 1, or a scale that is not positive and finite; and what
            `Scorer.encode_image` raises.

    Example:
        >>> classify(scorer, "fox.png", ["fox", "cat"])[0][0].label
        'fox'
    """
    if top_k < 1:
        raise ValueError(f"got top_k {top_k}, expected 1 or more")
    scale = scorer.logit_scale if scale is None else scale
    if not 0 < scale < math.inf:
        raise ValueError(f"got scale {scale}, expected a positive finite number")
    vectors = label_vectors(scorer, labels, templates)
    with torch.no_grad():
        cosines = scorer.encode_image(images) @ vectors.T  # (B,L)
    probabilities = (scale * cosines).softmax(dim=-1)
    ranked = probabilities.argsort(dim=-1, descending=True, stable=True)[:, :top_k]  # (B,k)
    order: list[list[int]] = ranked.tolist()
    return [
        [Prediction(labels[i], float(chances[i]), float(near[i])) for i in best]
        for best, chances, near in zip(order, probabilities, cosines, strict=True)
    ]


@dataclass(frozen=True)
class Match:
    """Place of a text (or image) in what was given, its probability among all, plain cosine."""

    index: int
    probability: float
    cosine: float


def match(
    scorer: Scorer,
    images: Images,
    texts: Sequence[str],
    top_k: int = 5,
    *,
    by: Literal["image", "text"] = "image",
) -> list[list[Match]]:
    """The `top_k` best texts of each image, or with `by="text"` the best images of each text.

    Best first, ties in the order given; probabilities are the softmax of the model's logits over
    everything there is to choose from. `clipguide.report.matches` draws them.

    Cost: one pass per image, one per text.

    Raises:
        ValueError: `top_k` below 1 or another `by`; and what `Scorer.similarity` raises.
    """
    if top_k < 1:
        raise ValueError(f"got top_k {top_k}, expected 1 or more")
    if by not in ("image", "text"):
        raise ValueError(f"got by {by!r}, expected 'image' or 'text'")
    with torch.no_grad():
        cosines = scorer.similarity(images, texts)  # (B,P)
    return best_matches(cosines if by == "image" else cosines.T, scorer.logit_scale, top_k)


def best_matches(cosines: Tensor, scale: float, top_k: int) -> list[list[Match]]:
    """Of each row its `top_k` largest, as `match` says; (N,M) finite cosines and their factor."""
    check_finite(cosines, "cosines")
    probabilities = (scale * cosines).softmax(dim=-1)
    order: list[list[int]] = cosines.argsort(dim=-1, descending=True, stable=True).tolist()
    return [
        [Match(i, float(chances[i]), float(near[i])) for i in places[:top_k]]
        for places, chances, near in zip(order, probabilities, cosines, strict=True)
    ]


def label_vectors(
    scorer: Scorer, labels: Sequence[str], templates: Sequence[str] | str = TEMPLATES["plain"]
) -> Tensor:
    """(L,D) unit vectors of labels: mean of the templates' unit vectors, made unit again.

    Those of the last labels and templates are kept for each scorer, as long as it lives and stays
    on its device: the same again costs nothing.

    Cost: one text pass per label and template, `TEXTS_AT_ONCE` vectors in memory.

    Raises:
        ValueError: see `classify`.
    """
    _check_labels(labels)
    texts = _resolve(templates)
    asked = (tuple(labels), tuple(texts), str(scorer.device))
    kept = _KEPT.get(scorer)
    if kept is None or kept[0] != asked:
        parts = batches(labels, max(1, TEXTS_AT_ONCE // len(texts)))
        means = torch.cat([_means(scorer, part, texts) for part in parts])
        unit = check_finite(means / means.norm(dim=-1, keepdim=True), "label vectors")
        _KEPT[scorer] = kept = (asked, unit)
    return kept[1]


TEXTS_AT_ONCE = 4096
_Asked: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], str]  # labels, templates, device
_KEPT: WeakKeyDictionary[Scorer, tuple[_Asked, Tensor]] = WeakKeyDictionary()


def _means(scorer: Scorer, labels: Sequence[str], texts: Sequence[str]) -> Tensor:
    """(L,D) means over the templates, not of length one."""
    prompts = [text.replace("{}", label) for label in labels for text in texts]
    vectors = scorer.encode_text(prompts).unflatten(0, (len(labels), len(texts)))  # (L,T,D)
    return vectors.mean(dim=1)


def _check_labels(labels: Sequence[str]) -> None:
    if not labels or isinstance(labels, str):
        raise ValueError(f"got labels {labels!r}, expected a list of one or more")
    twice = sorted(label for label, count in Counter(labels).items() if count > 1)
    if twice:
        raise ValueError(f"got labels {twice} more than once, expected each once")
    if not all(label.strip() for label in labels):
        raise ValueError("got an empty label, expected text")


def _resolve(templates: Sequence[str] | str) -> Sequence[str]:
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(f"got templates {templates!r}, expected one of {[*TEMPLATES]}")
        return TEMPLATES[templates]
    if not templates or not all("{}" in template for template in templates):
        raise ValueError(f"got templates {list(templates)}, expected texts with {{}} in them")
    return templates
