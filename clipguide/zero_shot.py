"""Zero-shot classification: the label whose description lies nearest to the image.

Radford et al. 2021 (arXiv:2103.00020), section 3.1: a label is the mean of the unit vectors of its
prompts (one per template), made a unit vector again; probabilities are the softmax of the model's
logits over the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.clip.scorer import Images, Scorer

_PICTURES = (
    "a bad photo of,a sculpture of,a low resolution photo of,a rendering of,graffiti of,"
    "a cropped photo of,a tattoo of,a bright photo of,a dark photo of,a drawing of,"
    "a close-up photo of,a black and white photo of,a painting of,a pixelated photo of,"
    "a jpeg corrupted photo of,a blurry photo of,a photo of,a good photo of,a doodle of,"
    "a sketch of,a rendition of,art of,itap of"
)
_STATES = "hard to see,clean,dirty,cool,large,nice,weird,small"
_MATERIALS = "embroidered,plastic,origami,toy,cartoon,plushie"


def _openai_templates() -> tuple[str, ...]:
    """OpenAI's 80 templates for ImageNet (its CLIP repository, notebooks, MIT)."""
    phrases = [f"{picture} # {{}}." for picture in _PICTURES.split(",")]
    phrases += [f"a photo of # {state} {{}}." for state in _STATES.split(",")]
    phrases += [f"# {material} {{}}." for material in _MATERIALS.split(",")]
    phrases += ["# {} in a video game."]
    pairs = [phrase.replace("#", article) for phrase in phrases for article in ("a", "the")]
    counted = [f"a photo of {which} {{}}." for which in ("many", "my", "one")]
    return (*pairs, *counted, "itap of my {}.")


TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("a photo of a {}.",),
    "label": ("{}",),
    "openai": _openai_templates(),
}
"""Sets of templates by name; {} is where the label goes."""


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
) -> list[list[Prediction]]:
    """The `top_k` likeliest labels of each image, likeliest first, ties in the labels' order.

    Args:
        scorer: the CLIP that compares.
        images: as `Scorer.encode_image` takes them.
        labels: different, not empty; probabilities are among these.
        templates: prompts with {} for the label, or the name of a set in `TEMPLATES`.
        top_k: predictions per image; all labels when there are fewer.

    Cost: one text pass per label and template (kept by the scorer), one image pass per image.

    Raises:
        ValueError: no labels, the same label twice, an empty one, a template without {}, or
            `top_k` below 1; and what `Scorer.encode_image` raises.

    Example:
        >>> classify(scorer, "fox.png", ["fox", "cat"])[0][0].label
        'fox'
    """
    if top_k < 1:
        raise ValueError(f"got top_k {top_k}, expected 1 or more")
    vectors = label_vectors(scorer, labels, templates)
    with torch.no_grad():
        cosines = scorer.encode_image(images) @ vectors.T  # (B,L)
    probabilities = (scorer.logit_scale * cosines).softmax(dim=-1)
    ranked = probabilities.argsort(dim=-1, descending=True, stable=True)[:, :top_k]  # (B,k)
    order: list[list[int]] = ranked.tolist()
    return [
        [Prediction(labels[i], float(chances[i]), float(near[i])) for i in best]
        for best, chances, near in zip(order, probabilities, cosines, strict=True)
    ]


def label_vectors(
    scorer: Scorer, labels: Sequence[str], templates: Sequence[str] | str = TEMPLATES["plain"]
) -> Tensor:
    """(L,D) unit vectors of labels: mean of the templates' unit vectors, made unit again.

    Raises:
        ValueError: see `classify`.
    """
    _check_labels(labels)
    texts = _resolve(templates)
    prompts = [text.replace("{}", label) for label in labels for text in texts]
    vectors = scorer.encode_text(prompts).unflatten(0, (len(labels), len(texts)))  # (L,T,D)
    means = vectors.mean(dim=1)
    return means / means.norm(dim=-1, keepdim=True)


def _check_labels(labels: Sequence[str]) -> None:
    if not labels or isinstance(labels, str):
        raise ValueError(f"got labels {labels!r}, expected a list of one or more")
    twice = sorted({label for label in labels if list(labels).count(label) > 1})
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
