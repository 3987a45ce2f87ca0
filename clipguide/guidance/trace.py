"""What guidance did: one record per guided step, and what it had to leave out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TraceStep:
    """One guided step of a batch of B images.

    Attributes:
        step: index of the step within its pipeline call, from 0 (second-order schedulers take two
            steps per timestep).
        timestep: the scheduler's timestep.
        sigma: noise level sigma_bar in [0, 1], the units of the window.
        score: reward of each image as predicted at this step, before its displacement; (B,) on CPU.
        grad_norm: L2 norm of each image's gradient, (B,) on CPU; 0 at strength 0 (none is taken)
            and NaN where it was not finite.
    """

    step: int
    timestep: float
    sigma: float
    score: Tensor
    grad_norm: Tensor


@dataclass(frozen=True)
class Skipped:
    """One image left unguided for one step: `component` was the first to be non-finite."""

    step: int
    sample: int
    component: str


@dataclass
class Trace:
    """Filled while the pipeline runs; several pipeline calls in one context append.

    Attributes:
        steps: the guided steps.
        skipped: the images left unguided.
        decoder: what made the images that the reward saw: a class, a hub id, a folder.
    """

    steps: list[TraceStep] = field(default_factory=list["TraceStep"])
    skipped: list[Skipped] = field(default_factory=list["Skipped"])
    decoder: str = ""

    def skipped_by_component(self) -> dict[str, int]:
        """How many image-steps each component cost, most first."""
        return dict(Counter(skip.component for skip in self.skipped).most_common())
