"""Random generators for what guidance draws: one per image, apart from the pipeline's noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clipguide.seeds import SEED_LIMIT, derive_generator

GeneratorArgument = torch.Generator | Sequence[torch.Generator] | None
"""What diffusers' pipelines take as `generator`."""


def view_generators(
    source: GeneratorArgument, batch: int, purpose: str = "views"
) -> list[torch.Generator]:
    """One new CPU generator per image, a function of the initial seeds of `source` alone.

    None of the given generators (nor the global one) is advanced, so the guided image sees the
    same noise as its unguided baseline.

    Args:
        source: a list, one per image; or one generator, whose image i counts as seeded with its
            initial seed + i; or None for torch's global seed in its place.
        batch: number of images.
        purpose: what they are for; streams of different purposes are independent.

    Raises:
        ValueError: a list of another length than the batch.
    """
    if source is None or isinstance(source, torch.Generator):
        first = torch.initial_seed() if source is None else source.initial_seed()
        seeds = [first + i for i in range(batch)]
    else:
        seeds = [generator.initial_seed() for generator in source]
    if len(seeds) != batch:
        raise ValueError(f"got {len(seeds)} generators for {batch} images, expected one per image")
    return [
        derive_generator(torch.Generator().manual_seed(seed % SEED_LIMIT), purpose)
        for seed in seeds
    ]
