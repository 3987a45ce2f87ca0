"""Where a pipeline's loop is in its scheduler's timesteps, and what comes next."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


class StepCursor:
    """The step last counted, by its index in `scheduler.timesteps`."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.restart()

    def restart(self) -> None:
        """A run begins: no step is counted."""
        self._index: int | None = None

    def count(self, timestep: Any) -> None:
        """The step at `timestep`: the one after the last if it is that, else the first match."""
        matches: Tensor = (self._scheduler.timesteps == timestep).nonzero().flatten()
        found = [int(index) for index in matches.tolist()]
        following = -1 if self._index is None else self._index + 1
        self._index = following if following in found else next(iter(found), None)

    def next_timestep(self) -> Any:
        """The timestep of the step after this one; None after the last, NaN where unknown."""
        timesteps = self._scheduler.timesteps
        index = getattr(self._scheduler, "step_index", None)
        if index is None:
            index = None if self._index is None else self._index + 1
        if index is None:
            return math.nan
        return timesteps[index] if index < len(timesteps) else None


def unknown(timestep: Any) -> bool:
    """Whether a next timestep is not known."""
    return isinstance(timestep, float) and math.isnan(timestep)
