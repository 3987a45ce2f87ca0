"""What listens to the steps of a run beside the search: for its last one, and for its noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clipguide.attach.observe import OnStep, Step


class DeterministicScheduler(ValueError):
    """A search whose copies of a sample must diverge was given a scheduler that adds no noise."""


class LastStep:
    """Remembers the newest step of a run, the last of which makes the clean latents."""

    def __init__(self, then: OnStep | None) -> None:
        self._then = then
        self._newest: Step | None = None

    def __call__(self, step: Step) -> tuple[Tensor, Tensor] | None:
        changed = None if self._then is None else self._then(step)
        if changed is not None:
            step = replace(step, sample=changed[0], output=changed[1])
        self._newest = step
        return changed

    def latents(self) -> Tensor:
        """x0 of the last step, (B, C, h, w), unpacked."""
        if self._newest is None:
            raise RuntimeError("no step was seen: the pipeline did not call its scheduler")
        return self._newest.grid()


class NoiseCheck:
    """Refuses a scheduler whose first step took nothing from the images' generators."""

    def __init__(self, generators: list[torch.Generator], then: OnStep | None) -> None:
        self._generators, self._then = generators, then
        self._before: list[Tensor] = []

    def __call__(self, step: Step) -> tuple[Tensor, Tensor] | None:
        if step.index == 1 and any(map(torch.equal, self._before, self._states())):
            raise DeterministicScheduler(
                f"got {type(step.scheduler).__name__}, which adds no noise of its own in this "
                "call: copies of a sample would stay copies; expected a stochastic scheduler "
                "(EulerAncestral, DDPM, or DDIM with eta > 0)"
            )
        changed = None if self._then is None else self._then(step)
        if step.index == 0:
            self._before = self._states()
        return changed

    def _states(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]
