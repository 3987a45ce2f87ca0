"""Mode tilt on a scheduler's terms: what the denoiser is handed in the place of the sample.

Between two steps the denoiser gets another latent, and with `damping` another timestep, than the
scheduler goes on with (`guidance.tilt`). The pipeline's own loop gives it both: the latent is what
the step before returned, the timestep what iterating over `scheduler.timesteps` yields. The step
after takes them back before the scheduler sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipguide.attach import noise_levels as levels
from clipguide.attach.schedulers import SchedulerRule
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel, at_least_float
from clipguide.guidance.tilt import Slope, precision


@dataclass(frozen=True)
class Seen:
    """What a denoiser is handed: a timestep, and its level in the scheduler's terms."""

    timestep: Any
    level: NoiseLevel


def _table(scheduler: Any, timestep: Any, level: NoiseLevel, wanted: float) -> Seen:
    """The trained timestep whose precision is nearest to `wanted`, in logarithms."""
    alpha_bar = scheduler.alphas_cumprod.double().cpu()
    table = alpha_bar / (1 - alpha_bar)
    index = int((table.log() - torch.tensor(wanted).log()).abs().argmin())
    if table[index] <= precision(level):  # the grid is too coarse for so little
        return Seen(timestep, level)
    alpha, sigma = float(alpha_bar[index].sqrt()), float((1 - alpha_bar[index]).sqrt())
    in_k_space = level.alpha == 1
    found = NoiseLevel(1.0, sigma / alpha) if in_k_space else NoiseLevel(alpha, sigma)
    return Seen(torch.full_like(torch.as_tensor(timestep), index), found)


def _line(scheduler: Any, timestep: Any, level: NoiseLevel, wanted: float) -> Seen:
    """Flow: any sigma is a timestep."""
    sigma = 1 / (1 + wanted**0.5)
    at = torch.as_tensor(timestep, dtype=torch.float32)
    steps = float(scheduler.config.num_train_timesteps)
    return Seen(torch.full_like(at, sigma * steps), NoiseLevel(1 - sigma, sigma))


# where a scheduler's row finds its levels -> the timestep at which a denoiser has another precision
_LATER: dict[Any, Callable[[Any, Any, NoiseLevel, float], Seen]] = {
    levels.from_alphas_cumprod: _table,
    levels.from_k_sigmas: _table,
    levels.from_alpha_sigma: _table,
    levels.from_flow_sigmas: _line,
}

# schedulers whose denoisers were verified at other timesteps than the step's
ADVANCED = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
)


def refuse_other_timesteps(scheduler: Any, config: GuidanceConfig, arguments: list[str]) -> None:
    """Raises where mode tilt cannot give the denoiser another timestep than the step's.

    Raises:
        ValueError: a scheduler, or one of its settings, for which that was not verified; a pipeline
            that blends the latents of a mask in between, at the level of the step.
    """
    if config.mode != "tilt" or config.damping is None:
        return
    given, name = scheduler.config, type(scheduler).__name__
    odd = given.get("invert_sigmas") or given.get("timestep_type", "discrete") != "discrete"
    if name not in ADVANCED or odd:
        raise ValueError(
            f"got mode 'tilt' with damping on {name}, expected one of {', '.join(ADVANCED)} with "
            "plain timesteps: damping gives the denoiser a timestep of its own; damping=None works "
            "with every scheduler"
        )
    if "mask_image" in arguments:
        raise ValueError(
            "got mode 'tilt' with damping on an inpainting pipeline, expected damping=None: the "
            "pipeline blends the known region in at the scheduler's noise level"
        )


class Tilting:
    """The state of mode tilt in one pipeline call."""

    def __init__(self, scheduler: Any, rule: SchedulerRule, config: GuidanceConfig) -> None:
        self._scheduler, self._rule = scheduler, rule
        self.curvature = 0.0 if config.damping is None else config.damping**-2
        self.restart()

    def restart(self) -> None:
        """A run begins: no slope is known, nothing is handed out."""
        self.slope: Slope | None = None
        self._seen: Seen | None = None
        self._timestep: Any = None  # the scheduler's own
        self._sample: Tensor | None = None
        self._handed: Tensor | None = None
        self._was_shown = False

    def handed(self, sample: Tensor, timestep: Any, level: NoiseLevel) -> Tensor:
        """What the denoiser is to see of the sample with which the scheduler goes on."""
        if self.slope is None:
            return sample
        seen = self._seen = self._denoised_at(timestep, level)
        self._timestep, self._sample = timestep, sample
        tilted = self.slope.tilted(at_least_float(sample), level, seen.level)
        self._handed = (_input_scale(level, seen.level) * tilted).to(sample.dtype)
        return self._handed

    @property
    def pending(self) -> bool:
        """Whether the denoiser was handed another latent for the step to come."""
        return self._handed is not None

    def shown(self, timestep: Tensor) -> Tensor:
        """The timestep that the loop is to give the denoiser in the place of its own."""
        if self._seen is None or self._seen.timestep is self._timestep:
            return timestep
        self._was_shown = True
        return torch.as_tensor(self._seen.timestep).to(timestep.device).view_as(timestep)

    def own_timestep(self, given: Any) -> Any:
        """The scheduler's timestep for the one that `step` was given.

        Raises:
            RuntimeError: the loop gave the denoiser another timestep than it was to.
        """
        if self._seen is None or self._seen.timestep is self._timestep:
            return given
        if not self._was_shown:
            raise RuntimeError(
                "mode 'tilt' with damping: the denoiser was not given the timestep of its latents; "
                "expected a loop that iterates over scheduler.timesteps as set_timesteps leaves "
                "them (damping=None works with every loop)"
            )
        self._was_shown = False
        if torch.is_tensor(given):
            return torch.as_tensor(self._timestep).to(given.device).expand_as(given)
        return type(given)(self._timestep)

    def taken_back(self, out: Tensor, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(model output, sample) for the scheduler's step: its own sample, with the tilted x0.

        What somebody wrote into the handed latents in between (inpainting) stands as written.
        """
        seen, sample, handed = self._seen, self._sample, self._handed
        self._seen = self._timestep = self._sample = self._handed = None
        if seen is None or sample is None or handed is None:
            return out, x
        own = torch.where(x == handed, sample, x)
        scheduler, rule = self._scheduler, self._rule
        form = rule.parameterization(scheduler, level)
        other = rule.parameterization(scheduler, seen.level)
        mean, rest = out[:, : x.shape[1]], out[:, x.shape[1] :]
        unscaled = at_least_float(x) / _input_scale(level, seen.level)
        mean = form.translated(mean, unscaled, own, other)
        return (torch.cat([mean, rest], dim=1) if rest.shape[1] else mean), own

    def select(self, rows: Tensor) -> None:
        """Row j goes on with the slope of row `rows[j]`."""
        if self.slope is not None:
            self.slope = self.slope.rows(rows)

    def _denoised_at(self, timestep: Any, level: NoiseLevel) -> Seen:
        if not self.curvature:
            return Seen(timestep, level)
        later = _LATER[self._rule.level]
        if self._rule.level is levels.from_alpha_sigma and _flowing(self._scheduler):
            later = _line
        return later(self._scheduler, timestep, level, precision(level) + self.curvature)


def _flowing(scheduler: Any) -> bool:
    return bool(scheduler.config.get("use_flow_sigmas"))


def _input_scale(level: NoiseLevel, seen: NoiseLevel) -> float:
    """In k-diffusion space the network's input is x/radius, and the scheduler divides by its own.

    Elsewhere 1: it is x itself.
    """
    return level.radius / seen.radius if level.alpha == seen.alpha == 1 else 1.0
