"""The list of families: the tests run over it, and the README's table is made from it."""

from __future__ import annotations

from families import diffusions, flows_packed, flows_plain, latent_unets, pixels, stable_diffusion_3
from families.parts import Family

FAMILIES: list[Family] = [
    *latent_unets.FAMILIES,
    *diffusions.FAMILIES,
    *stable_diffusion_3.FAMILIES,
    *flows_packed.FAMILIES,
    *flows_plain.FAMILIES,
    *pixels.FAMILIES,
]
