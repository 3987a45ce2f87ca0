"""Recurrence: a step is taken again from its own result, noised back to where it began.

RePaint (Lugmayr et al. 2022, Algorithm 1, https://arxiv.org/abs/2201.09865) brought it in; guidance
uses it to repair what it displaced (FreeDoM and TFG call it time travel, Universal Guidance
self-recurrence). The pipeline's own loop runs the denoiser again (`timestep_loop`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.noise_levels import from_flow_sigmas, from_k_sigmas
from clipguide.attach.schedulers import step_index
from clipguide.attach.timestep_loop import TimestepLoop
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.scale import Levels
from clipguide.guidance.smoothing import noise_like


def _ddim(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    previous = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    last = scheduler.final_alpha_cumprod
    return _preserving(scheduler.alphas_cumprod[previous] if previous >= 0 else last)


def _ddpm(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    previous = int(scheduler.previous_timestep(timestep))
    return _preserving(scheduler.alphas_cumprod[previous] if previous >= 0 else 1.0)


def _preserving(alpha_bar: Any) -> NoiseLevel:
    return NoiseLevel(math.sqrt(float(alpha_bar)), math.sqrt(1 - float(alpha_bar)))


def _k_diffusion(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    return from_k_sigmas(scheduler, timestep, index + 1)


def _flow(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    return from_flow_sigmas(scheduler, timestep, index + 1)


# single-step schedulers: class name -> the noise level of what `step` returns
SINGLE_STEP: dict[str, Callable[[Any, Any, Any], NoiseLevel]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "EulerDiscreteScheduler": _k_diffusion,
    "EulerAncestralDiscreteScheduler": _k_diffusion,
    "FlowMatchEulerDiscreteScheduler": _flow,
}

# arguments of pipelines that count their steps to know what to do in each
_COUNTING = ("control_guidance_start", "mask_image")


def refuse_multistep(scheduler: Any, config: GuidanceConfig) -> None:
    """Raises where settings need a single-step scheduler and have another.

    Raises:
        ValueError: a multistep or second-order scheduler, which remembers what is to be undone.
    """
    if config.single_step and type(scheduler).__name__ not in SINGLE_STEP:
        raise ValueError(
            f"got {type(scheduler).__name__} with recurrence={config.recurrence}, target "
            f"{config.target!r} and scale {config.scale!r}, expected a single-step scheduler "
            f"({', '.join(SINGLE_STEP)}): it carries earlier steps along"
        )


def refuse_counting(arguments: Sequence[str], name: str) -> None:
    """Raises for pipelines that look up what to do by the number of the step.

    Raises:
        ValueError: recurrence would shift their numbers.
    """
    counted = [argument for argument in _COUNTING if argument in arguments]
    if counted:
        raise ValueError(
            f"got recurrence with {name}, which counts its steps ({', '.join(counted)}); expected "
            "recurrence=0"
        )


def following_level(scheduler: Any, timestep: Any) -> NoiseLevel:
    """The noise level of what the scheduler's `step` will return, before it is called."""
    index = step_index(scheduler, timestep)
    return SINGLE_STEP[type(scheduler).__name__](scheduler, timestep, index)


def renoised(
    x: Tensor, now: NoiseLevel, then: NoiseLevel, generators: Sequence[torch.Generator]
) -> Tensor:
    """x at level `then`, noised back to `now`: the forward process between the two.

    x_t = (alpha/alpha')·x_{t-1} + sqrt(sigma² - (alpha/alpha')²·sigma'²)·eps; in variance-
    preserving space the time travel of FreeDoM's Algorithm 2 (https://arxiv.org/abs/2303.09833).
    """
    ratio = now.alpha / then.alpha
    spread = math.sqrt(max(0.0, now.sigma**2 - (ratio * then.sigma) ** 2))
    return ratio * x + spread * noise_like(x, generators)


class Recurrence:
    """Counts how often the present step has been taken, and asks the loop for it again."""

    def __init__(self, loop: TimestepLoop, config: GuidanceConfig) -> None:
        self._loop = loop
        self._times = config.recurrence if config.strength > 0 else 0
        self._window = config.recurring()
        self.restart()

    def restart(self) -> None:
        """A run begins, or the loop goes on to the next step."""
        self._taken = 0

    def wanted(self, level: NoiseLevel) -> bool:
        """Whether the present step is to be taken again after this time."""
        return self._taken < self._times and self._window.covers(level)

    def again(self, x: Tensor, levels: Levels, generators: Sequence[torch.Generator]) -> Tensor:
        """What the step returned, noised back for the same step, which the loop makes again."""
        self._loop.repeat()
        self._taken += 1
        return renoised(x, levels.now, levels.next(), generators)
