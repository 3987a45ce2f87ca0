"""A scheduler in guidance's terms: noise levels, x0 and back, what comes next."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clipguide.attach.recurrence import following_level
from clipguide.attach.schedulers import scheduler_rule, step_index
from clipguide.attach.step_cursor import StepCursor
from clipguide.guidance.parameterization import NoiseLevel, Parameterization
from clipguide.guidance.scale import Levels


class Schedule:
    """One scheduler by its verified rule.

    Raises:
        NotImplementedError: no rule for it (`clipguide.register_scheduler`).
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.rule = scheduler_rule(scheduler)
        self.cursor = StepCursor(scheduler)

    def level(self, timestep: Any) -> NoiseLevel:
        """The noise level of the sample that `step` is given at a timestep."""
        return self.rule.level(self.scheduler, timestep, step_index(self.scheduler, timestep))

    def levels(self, timestep: Any, *, following: bool) -> Levels:
        """The step's noise level and, where it is asked for, the one it leads to."""
        after = following_level(self.scheduler, timestep) if following else None
        return Levels(self.level(timestep), after)

    def form(self, level: NoiseLevel) -> Parameterization:
        """x0 of the scheduler's model output at a noise level, and back."""
        return self.rule.parameterization(self.scheduler, level)

    def finished(self, x0: Tensor) -> Tensor:
        """x0 as the scheduler goes on with it and the decoder expects it."""
        return self.rule.finish(self.scheduler, x0)
