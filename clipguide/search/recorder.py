"""Replays a batch of paths and records on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipguide.attach.observe import Step
from clipguide.search.path import GuidanceState, Path, StepRecord
from clipguide.search.rewarding import preview_rewards
from clipguide.seeds import make_generators

if TYPE_CHECKING:
    from clipguide.search.rollout import Rollout


class Stop(Exception):
    """Leaves a pipeline call from a step; caught by who made it."""


class Recorder:
    """Replays a batch of paths, then records; stops at the last of `calls` steps, if given.

    Args:
        owners: the rollout that each path belongs to.
        batch: the paths, equally long.
        calls: denoiser calls in all; None: to the end, and nothing is recorded.
    """

    def __init__(self, owners: Sequence[Rollout], batch: list[Path], calls: int | None) -> None:
        self.seeds = [path.seed for path in batch]
        self.generators = make_generators([path.origin for path in batch])  # then the paths' own
        self.replay = len(batch[0].steps)
        self.rewards: list[float] = []
        self._owners, self._batch, self._calls = owners, batch, calls
        self._observer = owners[0].observer
        self._steps: list[list[StepRecord]] = []  # B each
        self._guidance = [path.guidance for path in batch]  # B

    def __call__(self, step: Step) -> tuple[Tensor, Tensor] | None:
        if step.index < self.replay:
            return self._replayed(step)
        if self._calls is None:
            return None
        states = [generator.get_state() for generator in self.generators]
        rows = zip(
            step.sample.detach().split(1), step.output.detach().split(1), states, strict=True
        )
        self._steps.append([StepRecord(*row) for row in rows])
        if step.index == self._calls - 1:
            self.rewards = preview_rewards(self._owners, step, self.seeds).tolist()
            self._guidance = self._states_of_guidance(step)
            raise Stop
        return None

    def _replayed(self, step: Step) -> tuple[Tensor, Tensor]:
        """What each path was given at this step; its generator is where it was then."""
        records = [path.steps[step.index] for path in self._batch]
        for record, generator in zip(records, self.generators, strict=True):
            generator.set_state(record.state)
        if step.index == self.replay - 1:
            self._restore(step)
        samples = torch.cat([record.sample for record in records])
        return samples, torch.cat([record.output for record in records])

    def _restore(self, step: Step) -> None:
        """Guidance goes on from the last replayed step with what it had there."""
        states = [path.guidance for path in self._batch]
        self._observer.set_random_state([state.random for state in states])
        if step.mode is not None:
            known = [state.memory for state in states if state.memory is not None]
            step.mode.memory = known[0].joined(known) if known else None

    def _states_of_guidance(self, step: Step) -> list[GuidanceState]:
        """Of each path, as they are now."""
        memory = None if step.mode is None else step.mode.memory
        return [
            GuidanceState(random, None if memory is None else memory.rows(slice(i, i + 1)))
            for i, random in enumerate(self._observer.random_state(len(self.seeds)))
        ]

    def paths(self) -> list[Path]:
        """The batch's paths with what was recorded."""
        return [
            replace(path, steps=(*path.steps, *(row[i] for row in self._steps)), guidance=guidance)
            for i, (path, guidance) in enumerate(zip(self._batch, self._guidance, strict=True))
        ]
