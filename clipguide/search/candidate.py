"""What a search returns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Candidate:
    """One finished image of a search.

    Attributes:
        image: 8-bit RGB.
        score: its reward, taken before rounding to 8 bits; higher is better.
        seed: seed of its own random generator. With "best_of" and "prune" a plain pipeline call
            with this seed gives the image again; the other methods mix several seeds, and only the
            same search gives it again.
        log_weight: "fk" alone: log of its share of the particles' total weight; 0 elsewhere.
    """

    image: Image.Image
    score: float
    seed: int
    log_weight: float = 0.0


def check_score(score: float, seed: int) -> None:
    """ValueError that names the seed where a score is NaN or infinite."""
    if not math.isfinite(score):
        raise ValueError(f"got reward {score} for the image of seed {seed}, expected a number")


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """By score; ties by seed.

    Raises:
        ValueError: a score that is not finite; NaN compares with nothing.
    """
    listed = [*candidates]
    for candidate in listed:
        check_score(candidate.score, candidate.seed)
    return sorted(listed, key=lambda candidate: (-candidate.score, candidate.seed))
