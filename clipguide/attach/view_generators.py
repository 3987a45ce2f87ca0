"""Random generators for what guidance draws: one per image, apart from the pipeline's noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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


RandomState = dict[str, Tensor]
"""Purpose -> state of the generator that one image's random numbers for it come from."""

_PURPOSES = ("views", "smoothing")
"""What is drawn for at guided steps; recurrence draws too, but a search refuses it."""


class Streams:
    """The random streams of one guided context: one generator per image and purpose.

    Args:
        given: in the place of the pipeline call's own `generator`; None for that.
    """

    def __init__(self, given: GeneratorArgument = None) -> None:
        self.given, self._source = given, given
        self.restart()

    def restart(self) -> None:
        """A run begins: every stream starts again."""
        self._generators: dict[str, list[torch.Generator]] = {}

    def call_begins(self, generator: GeneratorArgument) -> None:
        """The pipeline is called with its own `generator` argument."""
        self._source = self.given or generator
        self.restart()

    def of(self, purpose: str, batch: int) -> list[torch.Generator]:
        """One generator per image, apart from the pipeline's own."""
        if len(self._generators.get(purpose, [])) != batch:
            self._generators[purpose] = view_generators(self._source, batch, purpose)
        return self._generators[purpose]

    def state(self, batch: int) -> list[RandomState]:
        """Where the streams are, one entry per image."""
        made = {purpose: self.of(purpose, batch) for purpose in _PURPOSES}
        return [{name: each[i].get_state() for name, each in made.items()} for i in range(batch)]

    def set_state(self, states: list[RandomState]) -> None:
        """The streams go on from where `state` found them."""
        for purpose in _PURPOSES:
            for generator, state in zip(self.of(purpose, len(states)), states, strict=True):
                generator.set_state(state[purpose])
