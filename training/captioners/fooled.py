"""Judges of the starter's pictures against the oracle, and whether guidance fools them.

Command: python -m training.captioners.fooled [--prompts 300] [--batch 20]
Hardware: one CPU core. Minutes: 9.
Columns:  area under the curve of the judge against the oracle: of all pictures with 95 % of it over
          pictures drawn again, of the unguided, of the guided; then how much oftener a guided
          picture is right than an unguided one of the same score, in points: pictures are put into
          eighths by their score, whose differences count by n_g n_u / (n_g + n_u).

One picture of each prompt is made without guidance, one with gradients of the latent CLIP and a
pruned search by it and its teacher: the starter's default, but that no captioner chooses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.generation.settings import settings_for
from clipguide.images import to_tensor
from clipguide.language.answers import load_answerer
from clipguide.rewards.named import load_reward
from training.starter.measure import open_bench
from training.starter.ways import sampled, searched

Values = NDArray[np.float64]
Judge = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[float]]
SAMPLES = 1000
PARTS = 8


def area(right: Values, scores: Values) -> float:
    """How often a right picture has a higher score than a wrong one, ties counting half."""
    pairs = scores[right == 1][:, None] - scores[right == 0][None]
    return float(((np.sign(pairs) + 1) / 2).mean())


def oftener(right: Values, scores: Values, guided: Values) -> float:
    """How much oftener a guided picture is right than an unguided one of the same eighth."""
    edges = np.quantile(scores, np.arange(1, PARTS) / PARTS)
    part = np.searchsorted(edges, scores, side="right")
    total = weight = 0.0
    for place in range(PARTS):
        one, other = (right[(part == place) & (guided == side)] for side in (1, 0))
        if len(one) and len(other):
            count = len(one) * len(other) / (len(one) + len(other))
            total, weight = total + count * (one.mean() - other.mean()), weight + count
    return total / weight


def interval(count: int, value: Callable[[NDArray[np.intp]], float]) -> tuple[float, float]:
    """95 % of `value` over pictures drawn again."""
    random = np.random.default_rng(0)
    drawn = [value(random.integers(count, size=count)) for _ in range(SAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def contrast(scorer: Scorer) -> Judge:
    """The reward that tells a prompt from its own words in other places."""

    def judge(images: Sequence[Image.Image], texts: Sequence[str]) -> Sequence[float]:
        with torch.no_grad():
            return [
                float(load_reward("contrast", scorer)([text])(to_tensor(image)))
                for image, text in zip(images, texts, strict=True)
            ]

    return judge


def by_name(name: str) -> Judge:
    """A judge by the name that `load_scorer` takes."""
    model = load_scorer(name)
    return lambda images, texts: [float(x) for x in model.score([*images], [*texts])]


def shows() -> Judge:
    """The starter's question head: the probability of yes."""
    answerer = load_answerer("starter")

    def judge(images: Sequence[Image.Image], texts: Sequence[str]) -> Sequence[float]:
        asked = [f"Does this picture show {text}?" for text in texts]
        return [one.probabilities["yes"] for one in answerer.answer([*images], asked)]

    return judge


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--batch", type=int, default=20)
    given = parser.parse_args()
    bench = open_bench(given.prompts, 25, given.batch)
    default = replace(
        settings_for("starter", {}), batch_size=given.batch, preview=None, search_options={},
        final="contrast + 2*teacher.contrast",
    )  # fmt: skip
    plain = default.unguided()
    images = [*sampled(bench, plain, 0, given.batch).images, *searched(bench, default).images]
    texts = bench.prompts * 2
    guided = np.repeat([0.0, 1.0], len(bench.prompts))
    right = np.array([float(oracle_verdict(*pair).ok) for pair in zip(images, texts, strict=True)])
    for side, name in ((0, "unguided"), (1, "guided")):
        print(f"right of the {name}: {100 * right[guided == side].mean():.1f} %")
    judges: dict[str, Judge] = {
        "cosine of the guide": by_name("starter"),
        "contrast of the guide": contrast(load_scorer("starter")),
        "cosine of the held-out": by_name("starter:judge"),
        "contrast of the held-out": contrast(load_scorer("starter:judge")),
        "log-prob:starter@0": by_name("log-prob:starter@0"),
        "log-prob:starter@1": by_name("log-prob:starter@1"),
        "caption-back:starter@starter:judge": by_name("caption-back:starter@starter:judge"),
        "questions: does it show": shows(),
    }
    for name, judge in judges.items():
        show(name, right, np.array(judge(images, texts)), guided)


def show(name: str, right: Values, scores: Values, guided: Values) -> None:
    """One row."""
    low, high = interval(len(right), lambda rows: area(right[rows], scores[rows]))
    sides = [area(right[guided == side], scores[guided == side]) for side in (0, 1)]
    gain = 100 * oftener(right, scores, guided)
    least, most = interval(
        len(right), lambda rows: 100 * oftener(right[rows], scores[rows], guided[rows])
    )
    print(
        f"{name:<36} {area(right, scores):.3f} [{low:.3f}, {high:.3f}]  {sides[0]:.3f} "
        f"{sides[1]:.3f}  {gain:+.1f} [{least:.1f}, {most:.1f}]",
        flush=True,
    )


if __name__ == "__main__":
    main()
