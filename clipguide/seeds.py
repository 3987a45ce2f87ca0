"""One random generator per image: image i depends on seed i alone, not on its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SEED_LIMIT = 2**63
"""Seeds lie in [0, SEED_LIMIT). CPU generators of torch use the lowest 32 bits of a seed."""


def image_seeds(seed: int, count: int) -> list[int]:
    """The seeds of `count` images: `[seed, seed + 1, ...]`.

    Image i of a batch made from `seed` is the single image made from `seed + i`.

    Raises:
        ValueError: `count` negative, or a seed outside [0, SEED_LIMIT).

    Example:
        >>> image_seeds(7, 3)
        [7, 8, 9]
    """
    if count < 0:
        raise ValueError(f"got count {count}, expected 0 or more")
    if not 0 <= seed <= SEED_LIMIT - max(count, 1):
        raise ValueError(f"got seed {seed} for {count} images, expected seeds in [0, 2**63)")
    return list(range(seed, seed + count))


def make_generators(
    seeds: Sequence[int], device: str | torch.device = "cpu"
) -> list[torch.Generator]:
    """One generator per seed on `device`.

    Raises:
        ValueError: a seed outside [0, SEED_LIMIT).
    """
    import torch

    for seed in seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"got seed {seed}, expected a seed in [0, 2**63)")
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def derive_generator(generator: torch.Generator, purpose: str) -> torch.Generator:
    """A new generator for `purpose`, a pure function of the given one's *initial* seed.

    The given generator is not advanced, so a second consumer of randomness (the views of guidance)
    leaves the first (the pipeline's noise) untouched. The new one lives on the same device.

    Example:
        >>> views = derive_generator(torch.Generator().manual_seed(7), "views")
    """
    import torch

    words = f"{generator.initial_seed()}:{purpose}".encode()
    seed = int.from_bytes(hashlib.sha256(words).digest()[:8], "little") % SEED_LIMIT
    return torch.Generator(generator.device).manual_seed(seed)
