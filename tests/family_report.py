"""Prints what guidance does to every family, over 8 seeds. About two minutes on one core.

    PYTHONPATH=. python tests/family_report.py [PART OF A NAME...]

Columns: mean gain of a tiny random CLIP's score over unguided at the same seeds, in modes x0 and
xt, and of a reward of latents in mode noisy (at the last step); how far mode xt's gradient is from
the difference quotient of the score, relatively; the largest difference between the last guided x0
decoded and the returned picture; whether the pipeline's pictures after guidance are those before,
to the bit.
"""

from __future__ import annotations

import sys

import conftest  # noqa: F401  one thread, offline
import torch
from families.parts import Family
from families.registry import FAMILIES
from families.runs import (
    gain,
    guided,
    images,
    last_decoded,
    latent_gain,
    slope_ratio,
    unguided,
)

SEEDS = tuple(range(8))


def row(family: Family) -> str:
    """One line of the table."""
    plain, gains = unguided(family, SEEDS), []
    for mode in ("x0", "xt"):
        found = guided(family, mode, SEEDS)[0] if mode in family.modes else None
        gains.append("-" if found is None else f"{gain(family, found, SEEDS):+.3f}")
    preview, returned = last_decoded(family)
    slope = f"{abs(slope_ratio(family) - 1):.0e}" if "xt" in family.modes else "-"
    undone = "yes" if torch.equal(images(family, SEEDS), plain) else "NO"
    difference = f"{float((preview - returned).abs().max()):.0e}"
    gains.append(f"{latent_gain(family, SEEDS):+.3f}" if "noisy" in family.modes else "-")
    return f"| {family} | {' | '.join(gains)} | {slope} | {difference} | {undone} |"


def main(names: list[str]) -> None:
    print("| family | x0 gain | xt gain | noisy gain | xt slope error | final decode | undone |")
    print("|---|---|---|---|---|---|---|")
    for family in FAMILIES:
        if not names or any(name in str(family) for name in names):
            print(row(family), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
