"""What a search returns."""

from __future__ import annotations

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


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """By score; ties by seed."""
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.seed))
