"""Every case of the sweep."""

from __future__ import annotations

from sweep import diffusions, flows, kandinsky, stable_diffusion, stable_diffusion_xl
from sweep.case import Case

CASES: list[Case] = [
    *flows.CASES,
    *diffusions.CASES,
    *kandinsky.CASES,
    *stable_diffusion_xl.CASES,
    *stable_diffusion.CASES,
]
