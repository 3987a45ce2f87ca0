"""What is kept of one particle, so that any batch can go on with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from clipguide.attach.view_generators import RandomState


@dataclass(frozen=True)
class StepRecord:
    """What the scheduler was given for one image at one step.

    Attributes:
        sample, output: the noisy latent and the (guided) model output, (1, ...).
        state: of the image's generator before the step.
    """

    sample: Tensor
    output: Tensor
    state: Tensor


@dataclass(frozen=True)
class GuidanceState:
    """What guidance goes on with for one image.

    Attributes:
        random: states of the generators that it draws from, by purpose.
        memory: what its mode carries on from the last step, a row of it; None where there is none.
    """

    random: RandomState = field(default_factory=dict[str, Tensor])
    memory: Any = None


@dataclass(frozen=True)
class Path:
    """One particle: its seed, and what the scheduler was given at each step so far.

    The scheduler has not made the last of these steps yet: its noise is still to be drawn.

    Attributes:
        seed: of its noise.
        steps: that were recorded.
        guidance: its state after the last of them.
        root: seed of the sample it began with, where that is an ancestor's.
    """

    seed: int
    steps: tuple[StepRecord, ...] = ()
    guidance: GuidanceState = GuidanceState()
    root: int | None = None

    @property
    def origin(self) -> int:
        """The seed of what the pipeline draws before its first step."""
        return self.seed if self.root is None else self.root

    def following(self, ancestor: Path) -> Path:
        """The ancestor's path and its noise so far; from the last step on, this particle's own."""
        last = replace(ancestor.steps[-1], state=self.steps[-1].state)
        guidance = replace(ancestor.guidance, random=self.guidance.random)
        return Path(self.seed, (*ancestor.steps[:-1], last), guidance, ancestor.origin)
