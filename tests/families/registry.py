"""The list of families: the tests run over it, and the README's table is made from it."""

from __future__ import annotations

from families import diffusions, flows, latent_unets, pixels
from families.parts import Family

FAMILIES: list[Family] = [
    *latent_unets.FAMILIES,
    *diffusions.FAMILIES,
    *flows.FAMILIES,
    *pixels.FAMILIES,
]
