"""Noise levels of diffusers' schedulers: one row each, and no row without verification.

A row says where a scheduler keeps (alpha, sigma) of the sample that `step` is given. That and the
prediction type are all that guidance needs (`guidance.parameterization`). Every row is compared
with the scheduler's own x0 in tests/test_schedulers.py, for every prediction type it names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clipguide.guidance.parameterization import COEFFICIENTS, NoiseLevel

Level = Callable[[Any, Any, Any], NoiseLevel]
"""(scheduler, timestep, index into its sigmas) -> noise level of the sample given to `step`."""


@dataclass(frozen=True)
class SchedulerRule:
    """Where a scheduler keeps its noise level.

    Attributes:
        level: the noise level of a step.
        predictions: prediction types that were verified.
        prediction: the type where the scheduler's config names none.
    """

    level: Level
    predictions: tuple[str, ...]
    prediction: str = "epsilon"

    def prediction_of(self, scheduler: Any) -> str:
        """The prediction type of a scheduler instance.

        Raises:
            NotImplementedError: a type that was not verified for this scheduler.
        """
        name: str = scheduler.config.get("prediction_type", self.prediction)
        name = {"original_sample": "sample"}.get(name, name)
        if name not in self.predictions:
            raise NotImplementedError(
                f"{type(scheduler).__name__} with prediction type {name!r} is not verified "
                f"(verified: {', '.join(self.predictions)}); clipguide.register_scheduler adds it"
            )
        return name


def _alphas_cumprod(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    alpha_bar = float(scheduler.alphas_cumprod[int(timestep)])
    return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))


def _k_diffusion(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    return NoiseLevel(1.0, float(scheduler.sigmas[index]))


def _k_dpm_2(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    sigmas = scheduler.sigmas if scheduler.state_in_first_order else scheduler.sigmas_interpol
    return NoiseLevel(1.0, float(sigmas[index]))


def _k_dpm_2_ancestral(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    if scheduler.state_in_first_order:
        return NoiseLevel(1.0, float(scheduler.sigmas[index]))
    return NoiseLevel(1.0, float(scheduler.sigmas_interpol[index - 1]))


def _alpha_sigma(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index])
    return NoiseLevel(float(alpha), float(sigma))


def _flow(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    sigma = float(scheduler.sigmas[index])
    return NoiseLevel(1 - sigma, sigma)


_EPS, _V, _X, _FLOW = "epsilon", "v_prediction", "sample", "flow_prediction"

# class name -> rule; only what tests/test_schedulers.py verifies
SCHEDULERS: dict[str, SchedulerRule] = {
    "DDIMScheduler": SchedulerRule(_alphas_cumprod, (_EPS, _V, _X)),
    "DDPMScheduler": SchedulerRule(_alphas_cumprod, (_EPS, _V, _X)),
    "PNDMScheduler": SchedulerRule(_alphas_cumprod, (_EPS, _V)),
    "LCMScheduler": SchedulerRule(_alphas_cumprod, (_EPS, _V, _X)),
    "EulerDiscreteScheduler": SchedulerRule(_k_diffusion, (_EPS, _V, _X)),
    "EulerAncestralDiscreteScheduler": SchedulerRule(_k_diffusion, (_EPS, _V)),
    "HeunDiscreteScheduler": SchedulerRule(_k_diffusion, (_EPS, _V, _X)),
    "LMSDiscreteScheduler": SchedulerRule(_k_diffusion, (_EPS, _V, _X)),
    "KDPM2DiscreteScheduler": SchedulerRule(_k_dpm_2, (_EPS, _V)),
    "KDPM2AncestralDiscreteScheduler": SchedulerRule(_k_dpm_2_ancestral, (_EPS, _V)),
    "DPMSolverMultistepScheduler": SchedulerRule(_alpha_sigma, (_EPS, _V, _X)),
    "DPMSolverSinglestepScheduler": SchedulerRule(_alpha_sigma, (_EPS, _V, _X)),
    "DEISMultistepScheduler": SchedulerRule(_alpha_sigma, (_EPS, _V, _X)),
    "UniPCMultistepScheduler": SchedulerRule(_alpha_sigma, (_EPS, _V, _X)),
    "SASolverScheduler": SchedulerRule(_alpha_sigma, (_EPS, _V, _X)),
    "FlowMatchEulerDiscreteScheduler": SchedulerRule(_flow, (_FLOW,), _FLOW),
}


def scheduler_rule(scheduler: Any) -> SchedulerRule:
    """The rule of a scheduler, found by the exact name of its class.

    Raises:
        NotImplementedError: no rule for the class, or not for its prediction type. A rule is never
            guessed: a wrong noise level gives images that look like a failure of the model.
    """
    name = type(scheduler).__name__
    if name not in SCHEDULERS:
        raise NotImplementedError(
            f"{name} has no verified rule for x0 (verified: {', '.join(SCHEDULERS)}); use one of "
            "them, or add a rule with clipguide.register_scheduler"
        )
    rule = SCHEDULERS[name]
    rule.prediction_of(scheduler)
    return rule


def register_scheduler(
    name: str, level: Level, predictions: tuple[str, ...], *, prediction: str = "epsilon"
) -> None:
    """Adds a scheduler class by name (or replaces one).

    Args:
        name: `type(scheduler).__name__`.
        level: (scheduler, timestep, index) -> NoiseLevel of the sample that `step` is given; index
            is the scheduler's `step_index`, or None where it has none.
        predictions: the prediction types it may be used with.
        prediction: the type where the scheduler's config names none.

    Raises:
        ValueError: a prediction type without a formula in `guidance.parameterization`.

    Example:
        >>> register_scheduler(
        ...     "MyEuler", lambda s, t, i: NoiseLevel(1.0, float(s.sigmas[i])), ("epsilon",)
        ... )
    """
    unknown = [p for p in (*predictions, prediction) if p not in COEFFICIENTS]
    if unknown or not predictions:
        raise ValueError(f"got predictions {predictions}, expected some of {(*COEFFICIENTS,)}")
    SCHEDULERS[name] = SchedulerRule(level, predictions, prediction)


def step_index(scheduler: Any, timestep: Any) -> int | None:
    """Position of a step in the scheduler's sigmas; None for schedulers that keep no index.

    `step_index` is None before the first step; `begin_index` is set by image-to-image pipelines.
    """
    for name in ("step_index", "begin_index"):
        index: int | None = getattr(scheduler, name, None)
        if index is not None:
            return index
    if hasattr(scheduler, "index_for_timestep"):
        return int(scheduler.index_for_timestep(timestep))
    return None


def restrict_x0(scheduler: Any, x0: Tensor) -> Tensor:
    """x0 as the scheduler goes on with it: thresholded or clipped where its config says so."""
    if scheduler.config.get("thresholding"):
        thresholded: Tensor = scheduler._threshold_sample(x0)
        return thresholded
    if scheduler.config.get("clip_sample"):
        limit = float(scheduler.config.get("clip_sample_range", 1.0))
        return x0.clamp(-limit, limit)
    return x0
