"""Noise levels of diffusers' schedulers: one row each, and no row without verification.

A row says where a scheduler keeps (alpha, sigma) of the sample that `step` is given. That and the
prediction type are all that guidance needs (`guidance.parameterization`). Every row is compared
with the scheduler's own x0 in tests/test_schedulers.py, for every prediction type it names and
every setting of the config that changes the arithmetic. Every other class that diffusers exports is
in `attach.scheduler_refusals`, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clipguide.attach import noise_levels as levels
from clipguide.attach.noise_levels import restrict_x0
from clipguide.attach.scheduler_refusals import REFUSED, unverified_settings
from clipguide.attach.unsupported import Unsupported
from clipguide.guidance.parameterization import (
    COEFFICIENTS,
    NoiseLevel,
    Parameterization,
    parameterization,
)

Level = Callable[[Any, Any, Any], NoiseLevel]
"""(scheduler, timestep, index into its sigmas) -> noise level of the sample given to `step`."""

Formula = Callable[[Any, NoiseLevel], Parameterization]
"""(scheduler, noise level) -> x0 from sample and model output."""

_ALIASES = {"original_sample": "sample", "trigflow": "v_prediction"}


@dataclass(frozen=True)
class SchedulerRule:
    """Where a scheduler keeps its noise level.

    Attributes:
        level: the noise level of a step.
        predictions: prediction types that were verified.
        prediction: the type where the scheduler's config names none.
        formula: x0 where the prediction type alone does not say it (`guidance.parameterization`).
        finish: (scheduler, x0) -> x0 as the scheduler goes on with it and the decoder expects it.
    """

    level: Level
    predictions: tuple[str, ...]
    prediction: str = "epsilon"
    formula: Formula | None = None
    finish: Callable[[Any, Tensor], Tensor] = restrict_x0

    def prediction_of(self, scheduler: Any) -> str:
        """The prediction type of a scheduler instance.

        Raises:
            NotImplementedError: a type or a setting that was not verified for this scheduler.
        """
        name: str = scheduler.config.get("prediction_type", self.prediction)
        name = _ALIASES.get(name, name)
        if name not in self.predictions:
            raise Unsupported(
                f"{type(scheduler).__name__} with prediction type {name!r} is not verified "
                f"(verified: {', '.join(self.predictions)}); clipguide.register_scheduler adds it"
            )
        setting = unverified_settings(scheduler)
        if setting is not None:
            raise Unsupported(
                f"{type(scheduler).__name__} with {setting} is not verified; "
                "clipguide.register_scheduler adds it"
            )
        return name

    def parameterization(self, scheduler: Any, level: NoiseLevel) -> Parameterization:
        """x0 = a·sample + b·model_output at a noise level, for a scheduler instance.

        Raises:
            NotImplementedError: as `prediction_of`.
        """
        prediction = self.prediction_of(scheduler)
        if self.formula is not None:
            return self.formula(scheduler, level)
        return parameterization(prediction, level)


_EPS, _V, _X, _FLOW = "epsilon", "v_prediction", "sample", "flow_prediction"
_DISCRETE = SchedulerRule(levels.from_alphas_cumprod, (_EPS, _V, _X))
_UNCLIPPED = SchedulerRule(levels.from_alphas_cumprod, (_EPS, _V, _X), finish=levels.unrestricted)
_K_SIGMAS = SchedulerRule(levels.from_k_sigmas, (_EPS, _V, _X))
_SOLVER = SchedulerRule(levels.from_alpha_sigma, (_EPS, _V, _X, _FLOW))
_EDM = SchedulerRule(levels.from_k_sigmas, (_EPS, _V), formula=levels.edm_formula)
_FLOWING = SchedulerRule(levels.from_flow_sigmas, (_FLOW,), _FLOW, levels.flow_formula)

# class name -> rule; only what tests/test_schedulers.py verifies
SCHEDULERS: dict[str, SchedulerRule] = {
    "DDIMScheduler": _DISCRETE,
    "DDIMParallelScheduler": _DISCRETE,
    "DDPMScheduler": _DISCRETE,
    "DDPMParallelScheduler": _DISCRETE,
    "DDPMWuerstchenScheduler": SchedulerRule(levels.from_cosine_schedule, (_EPS,)),
    "PNDMScheduler": SchedulerRule(levels.from_alphas_cumprod, (_EPS, _V)),
    "IPNDMScheduler": SchedulerRule(levels.from_sine_table, (_V,), _V),
    "LCMScheduler": _DISCRETE,
    "TCDScheduler": _UNCLIPPED,
    "UnCLIPScheduler": SchedulerRule(levels.from_alphas_cumprod, (_EPS, _X)),
    "RePaintScheduler": SchedulerRule(levels.from_alphas_cumprod, (_EPS,)),
    "CogVideoXDDIMScheduler": _UNCLIPPED,
    "CogVideoXDPMScheduler": _UNCLIPPED,
    "EulerDiscreteScheduler": _K_SIGMAS,
    "EulerAncestralDiscreteScheduler": SchedulerRule(levels.from_k_sigmas, (_EPS, _V)),
    "HeunDiscreteScheduler": _K_SIGMAS,
    "LMSDiscreteScheduler": _K_SIGMAS,
    "KDPM2DiscreteScheduler": SchedulerRule(levels.from_k_dpm_2, (_EPS, _V)),
    "KDPM2AncestralDiscreteScheduler": SchedulerRule(levels.from_k_dpm_2_ancestral, (_EPS, _V)),
    "DPMSolverSDEScheduler": SchedulerRule(levels.from_dpm_sde, (_EPS, _V)),
    "DPMSolverMultistepScheduler": _SOLVER,
    "DPMSolverSinglestepScheduler": _SOLVER,
    "DEISMultistepScheduler": _SOLVER,
    "UniPCMultistepScheduler": _SOLVER,
    "SASolverScheduler": _SOLVER,
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "CosineDPMSolverMultistepScheduler": _EDM,
    "CMStochasticIterativeScheduler": SchedulerRule(
        levels.from_k_sigmas,
        (_EPS,),
        formula=levels.consistency_formula,
        finish=levels.clipped_as_denoised,
    ),
    "SCMScheduler": SchedulerRule(levels.from_angle, (_V,), _V, finish=levels.of_unit_deviation),
    "FlowMatchEulerDiscreteScheduler": _FLOWING,
    "FlowMatchHeunDiscreteScheduler": _FLOWING,
    "FlowMatchLCMScheduler": _FLOWING,
    "LTXEulerAncestralRFScheduler": _FLOWING,
    "MiniMaxH3Scheduler": SchedulerRule(
        levels.from_flow_sigmas, (_FLOW,), _FLOW, levels.towards_image_formula
    ),
}


def scheduler_rule(scheduler: Any) -> SchedulerRule:
    """The rule of a scheduler, found by the exact name of its class.

    Raises:
        NotImplementedError: no rule for the class, or not for its prediction type or settings. A
            rule is never guessed: a wrong noise level gives images that look like a failure of the
            model.
    """
    name = type(scheduler).__name__
    if name not in SCHEDULERS:
        why = f": {REFUSED[name]}" if name in REFUSED else ""
        raise Unsupported(
            f"{name} has no verified rule for x0{why} (verified: {', '.join(SCHEDULERS)}); use one "
            "of them, or add a rule with clipguide.register_scheduler"
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
