"""Captioners beside a CLIP as judges of captions, by what people said: Flickr8k-Expert.

Command: python -m training.captioners.people --clip RUN --captioner RUN --encoder DIR
             [--data DIR]     (a folder with expert.tsv, captions.tsv, dev.txt and images)
Hardware: one CPU core. Minutes: 20.
Columns:  Kendall's tau-c, 95 % of it over images drawn again, and of sums how much more than the
          CLIP alone, over the same images drawn again.

A sum adds judges in equal parts, each divided by its deviation on dev: pairs of a photo with one
caption of its own and one of another photo. Nothing is chosen on the rated photos.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import stdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipguide.clip.loading import load_scorer
from clipguide.evaluation.agreement import agreement, drawn_again
from clipguide.evaluation.kendall import kendall_tau_c
from clipguide.images import load_image

DATA = Path(os.environ.get("CLIPGUIDE_DATA", "../shared/data"))
SAMPLES = 200


class Pair(NamedTuple):
    """A photo's file, a caption, and what each person said of it: 1 to 4."""

    photo: Path
    text: str
    ratings: tuple[int, ...] = ()


Judge = Callable[[Sequence[Pair]], list[float]]


def captions_of(data: Path) -> dict[str, list[str]]:
    """Of each photo its captions, in their order."""
    found: dict[str, list[str]] = {}
    with (data / "captions.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            found.setdefault(row["image"], []).append(row["caption"])
    return found


def rated_pairs(data: Path) -> list[Pair]:
    """What people rated, photo after photo; without the captions that were written of the photo
    itself, as Hessel et al. 2021 (https://arxiv.org/abs/2104.08718) leave them out."""
    captions = captions_of(data)
    with (data / "expert.tsv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: row["image"])
    return [
        Pair(
            data / "images" / row["image"],
            captions[row["caption_image"]][int(row["caption_index"])],
            tuple(int(row[f"rating{person}"]) for person in (1, 2, 3)),
        )
        for row in rows
        if row["caption_image"] != row["image"]
    ]


def dev_pairs(data: Path) -> list[Pair]:
    """Each photo of dev with a caption of its own, and with one of another photo."""
    captions, rng = captions_of(data), Random(0)
    names = (data / "dev.txt").read_text(encoding="utf-8").split()
    others = [*names[1:], names[0]]
    return [
        Pair(data / "images" / name, rng.choice(captions[source]))
        for name, other in zip(names, others, strict=True)
        for source in (name, other)
    ]


def by_name(name: str) -> Judge:
    """A judge of one pair after another, by its name."""
    model = load_scorer(name)
    opened: dict[Path, Image.Image] = {}

    def judge(pairs: Sequence[Pair]) -> list[float]:
        found: list[float] = []
        for pair in pairs:
            if pair.photo not in opened:
                opened.clear()
                opened[pair.photo] = load_image(pair.photo)
            found.append(float(model.score([opened[pair.photo]], [pair.text])[0]))
        return found

    return judge


def added(scores: Sequence[Sequence[float]], deviations: Sequence[float]) -> list[float]:
    """The sum of judges, each divided by its deviation."""
    parts = [np.asarray(some) / by for some, by in zip(scores, deviations, strict=True)]
    return [float(value) for value in np.sum(parts, axis=0)]


def above(
    pairs: Sequence[Pair], scores: Sequence[float], clip: Sequence[float]
) -> tuple[float, float, float]:
    """How much higher tau-c is than the CLIP's, with 95 % of it over photos drawn again."""
    ratings = np.array([pair.ratings for pair in pairs], dtype=float)
    both = np.array([scores, clip])

    def difference(rows: NDArray[np.intp]) -> float:
        rated = ratings[rows]
        each = [np.repeat(some[rows], rated.shape[1]) for some in both]
        return 100 * (kendall_tau_c(each[0], rated.ravel()) - kendall_tau_c(each[1], rated.ravel()))

    names = [pair.photo.name for pair in pairs]
    drawn = [difference(rows) for rows in drawn_again(names, samples=SAMPLES)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return difference(np.arange(len(pairs))), float(low), float(high)


def show(name: str, pairs: Sequence[Pair], scores: Sequence[float], clip: Sequence[float]) -> None:
    """One row."""
    groups = [pair.photo.name for pair in pairs]
    ratings = [pair.ratings for pair in pairs]
    whole = agreement(scores, ratings, groups, samples=SAMPLES)
    low, high = whole.interval
    row = f"{name:<34} {whole.tau_c:5.1f} [{low:.1f}, {high:.1f}]"
    if list(scores) != list(clip):
        gain, low, high = above(pairs, scores, clip)
        row += f"  {gain:+5.1f} [{low:+.1f}, {high:+.1f}]"
    print(row, flush=True)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", required=True, help="what load_scorer takes")
    parser.add_argument("--captioner", required=True, help="what load_captioner takes")
    parser.add_argument("--encoder", required=True, help="of texts, for caption-back")
    parser.add_argument("--data", type=Path, default=DATA / "flickr8k")
    given = parser.parse_args()
    names = {
        "CLIP": given.clip,
        "caption-back": f"caption-back:{given.captioner}@{given.encoder}",
        "log-prob, alpha 0": f"log-prob:{given.captioner}@0",
        "log-prob, alpha 1": f"log-prob:{given.captioner}@1",
    }
    rated, dev = rated_pairs(given.data), dev_pairs(given.data)
    judges = {title: by_name(name) for title, name in names.items()}
    scores = {title: judge(rated) for title, judge in judges.items()}
    print(f"{sum(len(pair.ratings) for pair in rated)} ratings of {len(rated)} pairs")
    for title, found in scores.items():
        show(title, rated, found, scores["CLIP"])
    deviations = {title: stdev(judge(dev)) for title, judge in judges.items()}
    for others in (["caption-back"], ["log-prob, alpha 0"], ["caption-back", "log-prob, alpha 0"]):
        some = ["CLIP", *others]
        whole = added([scores[one] for one in some], [deviations[one] for one in some])
        show(" + ".join(some), rated, whole, scores["CLIP"])


if __name__ == "__main__":
    main()
