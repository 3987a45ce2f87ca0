"""What a way to climb is: hooks before a step, on its model output, and after it.

The session (`attach.session`) calls the hooks at every `scheduler.step` and knows no mode by name.
A mode is one subclass of `Mode` in one file, with one line in `clipguide.guidance.config.MODES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from clipguide.attach.cfg import CfgTap
from clipguide.attach.latent_reading import LatentReading
from clipguide.attach.preserve import Freeze
from clipguide.attach.schedule import Schedule
from clipguide.guidance.config import MODES, GuidanceConfig
from clipguide.guidance.gradient import Evaluation
from clipguide.guidance.parameterization import NoiseLevel, Parameterization
from clipguide.guidance.scale import Levels
from clipguide.rewards.base import Reward


@dataclass(frozen=True)
class Objective:
    """What to guide by.

    Attributes:
        reward: what is climbed.
        reading: of the latents as the scheduler steps them.
        freeze: over every parameter that a graph may meet.
        config: strength, normalisation, window, ...
    """

    reward: Reward
    reading: LatentReading
    freeze: Freeze
    config: GuidanceConfig


@dataclass(frozen=True)
class StepContext:
    """Where a step is.

    Attributes:
        timestep: of the batch, as the scheduler counts it.
        levels: its noise level, and the one it leads to where the settings need that.
        form: x0 of the model output at that level, and back.
        random: (purpose, batch) -> one generator per image, apart from the pipeline's own.
    """

    timestep: Any
    levels: Levels
    form: Parameterization
    random: Callable[[str, int], list[torch.Generator]]


@dataclass(frozen=True)
class NextStep:
    """The step after this one, as far as it is known.

    Attributes:
        timestep, level: of that step; None after the last one, and off the scheduler's timesteps.
        covered: whether it lies in the window.
        guided: whether it is guided; True where that is not known.
    """

    timestep: Any
    level: NoiseLevel | None
    covered: bool
    guided: bool


@dataclass(frozen=True)
class Edit:
    """What becomes of a guided step.

    Attributes:
        output: the model output for the scheduler, (B, C or 2C, ...).
        found: the reward and its gradient.
        added: what is added to the sample after the step, for targets other than "output".
    """

    output: Tensor
    found: Evaluation
    added: Tensor | None = None


class Memory(Protocol):
    """What a mode carries from step to step: it has a row per sample, which a search moves."""

    def rows(self, index: Tensor | slice) -> Any:
        """Of some rows of the batch."""
        ...

    def joined(self, parts: Sequence[Any]) -> Any:
        """Of batches one after the other."""
        ...


class Mode:
    """One way to climb in one guided context; made anew for each.

    Only `edit` must be given; the other hooks do nothing here.

    Args:
        objective: what to guide by.
        schedule: the scheduler in guidance's terms.

    Attributes:
        reads: what at least one term of the reward must read, "images" or "latents".
        acts_after_step: whether the mode needs `handed`: a block of Modular Diffusers, which ends
            before the scheduler's step, cannot have it.
        graph_through_denoiser: whether the denoiser's weights take part in the backward pass.
        shows_timesteps: whether `shown` may give the denoiser another timestep.
        cfg: the direction of classifier-free guidance, present for normalize="cfg".
        memory: what is carried from one step to the next; None where there is nothing.
    """

    reads: ClassVar[str] = "images"
    acts_after_step: ClassVar[bool] = False
    graph_through_denoiser: ClassVar[bool] = False
    shows_timesteps: bool = False

    def __init__(self, objective: Objective, schedule: Schedule) -> None:
        self.objective, self.schedule = objective, schedule
        self.config = objective.config
        self.cfg = CfgTap() if self.config.normalize == "cfg" else None
        self.memory: Memory | None = None

    # ------------------------------------------------------------------------------- at the door

    @classmethod
    def refuse(cls, scheduler: Any, config: GuidanceConfig, arguments: list[str]) -> None:
        """Raises where the mode does not work.

        Args:
            scheduler: the pipeline's.
            config: the settings.
            arguments: names of the pipeline call's arguments.
        """

    def enter(self, stack: ExitStack, pipe: Any) -> None:
        """The context opens; what is changed for its time is put on the stack."""

    def defined_at(self, level: NoiseLevel) -> bool:
        """Whether the formulas are finite at a noise level."""
        finite = level.sigma > 0 and self.schedule.form(level).invertible
        return finite and (level.alpha > 0 or self.config.target != "noisy")

    # ------------------------------------------------------------------------- a pipeline's call

    def restart(self) -> None:
        """A run begins: `set_timesteps` was called."""
        self.memory = None

    def first(self, latents: Tensor, *, guided: bool) -> Tensor:
        """The first latents of a call, for the denoiser."""
        return latents

    def denoiser_called(self, sample: Tensor, *, guided: bool) -> None:
        """The denoiser is about to be given a call's first sample, which nothing prepared."""

    def shown(self, timestep: Tensor) -> Tensor:
        """The timestep that the loop is to give the denoiser in the place of its own."""
        return timestep

    # ------------------------------------------------------------------------------------ a step

    def own_timestep(self, given: Any) -> Any:
        """The scheduler's timestep for the one that `step` was given."""
        return given

    def restored(self, out: Tensor, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(model output, sample) for the scheduler, of what the denoiser was handed."""
        return out, x

    def edit(self, out: Tensor, x: Tensor, step: StepContext) -> Edit:
        """The model output of a guided step, displaced.

        Args:
            out: the model output, (B, C, ...) or with a learned variance (B, 2C, ...).
            x: the noisy latent, (B, C, ...).
            step: where the step is.
        """
        raise NotImplementedError

    def stepped(self, original: Callable[..., Any], given: Any) -> Any:
        """The scheduler's own step; `given` are its bound arguments."""
        return original(*given.args, **given.kwargs)

    def handed(self, sample: Tensor, following: NextStep) -> Tensor:
        """What the denoiser is to see of the sample with which the scheduler goes on."""
        return sample

    # ------------------------------------------------------------------------------- for a search

    def select(self, rows: Tensor) -> None:
        """Row j goes on with what is remembered of row `rows[j]`."""
        if self.memory is not None:
            self.memory = self.memory.rows(rows)


def find_mode(name: str) -> type[Mode]:
    """The class of a mode.

    Raises:
        ValueError: a name not in `MODES`.
    """
    if name not in MODES:
        raise ValueError(f"got mode {name!r}, expected one of {(*MODES,)}")
    module, _, attribute = MODES[name].where.partition(":")
    mode: type[Mode] = getattr(importlib.import_module(module), attribute)
    return mode


def check_reads(name: str, reward: Reward) -> None:
    """Raises where the mode of this name cannot climb the reward.

    Raises:
        ValueError: it reads latents, and the mode shows images alone; or the other way round.
    """
    reads = find_mode(name).reads
    if reads == "images" and "latents" in reward.reads:
        raise ValueError(
            f"got mode={name!r} with a reward that reads latents, expected mode='noisy', which is "
            "taken where none is given"
        )
    if reads == "latents" and "latents" not in reward.reads:
        raise ValueError(
            f"got mode={name!r} with a reward that reads images, expected one that reads latents: "
            "ClipReward or ContrastReward of a latent scorer, or a LatentReward"
        )


def split(out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A model output's mean, and its learned variance where it has one: (B, C or 2C, ...)."""
    if out.shape[1] == channels:
        return out, None
    return out[:, :channels], out[:, channels:]


def joined(mean: Tensor, rest: Tensor | None) -> Tensor:
    """The inverse of `split`."""
    return mean if rest is None else torch.cat([mean, rest], dim=1)


def displaced(out: Tensor, delta: Tensor, form: Parameterization, usable: Tensor) -> Tensor:
    """The model output (B, C or 2C, ...) whose x0 is `delta` (B, C, ...) further.

    The learned variance stays, and so do the samples that are not usable, (B,) bool.
    """
    mean, rest = split(out, delta.shape[1])
    rows = usable.view(-1, *[1] * (mean.ndim - 1))
    return joined(torch.where(rows, form.displace(mean, delta), mean), rest)
