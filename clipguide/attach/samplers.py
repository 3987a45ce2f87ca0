"""Samplers by name: give a pipeline another scheduler that keeps the model's noise schedule."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

import torch

from clipguide.attach.layouts import sampling_pipeline
from clipguide.attach.noise_levels import flow_formula
from clipguide.attach.schedulers import SCHEDULERS, scheduler_rule

_FLOW_SIGMAS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler class with its options, and what other tools call it.

    Attributes:
        scheduler: the class for models of betas (Stable Diffusion, SDXL, DeepFloyd IF).
        label: the name in AUTOMATIC1111's `parameters` text.
        options: of that class.
        flow: the class for models on the straight line from noise to image (SD3, Flux); None where
            diffusers has none.
        flow_options: of that class.
    """

    scheduler: str
    label: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    flow: str | None = None
    flow_options: dict[str, Any] = field(default_factory=dict[str, Any])


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", "DDIM"),
    "ddpm": Sampler("DDPMScheduler", "DDPM"),
    "pndm": Sampler("PNDMScheduler", "PLMS"),
    "euler": Sampler("EulerDiscreteScheduler", "Euler", flow="FlowMatchEulerDiscreteScheduler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": Sampler("HeunDiscreteScheduler", "Heun", flow="FlowMatchHeunDiscreteScheduler"),
    "dpmpp_2m": Sampler(
        "DPMSolverMultistepScheduler", "DPM++ 2M",
        flow="DPMSolverMultistepScheduler", flow_options=_FLOW_SIGMAS,
    ),
    "unipc": Sampler(
        "UniPCMultistepScheduler", "UniPC",
        flow="UniPCMultistepScheduler", flow_options=_FLOW_SIGMAS,
    ),
}  # fmt: skip

# given by name: `from_config` leaves out what the other class had by default
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")

# settings that make another noise schedule where they are on
_SCHEDULE = ("rescale_betas_zero_snr", "use_dynamic_shifting", "shift_terminal", "invert_sigmas")

# settings that space a flow's steps, which every class of flows does in its own way
_SPACING = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def find_sampler(name: str) -> Sampler:
    """The sampler called `name`; ValueError with the choices when there is none."""
    if name not in SAMPLERS:
        raise ValueError(f"got sampler {name!r}, expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def set_sampler(pipe: Any, name: str) -> None:
    """Gives `pipe` the scheduler called `name`, made from the config of the one it has.

    What the model predicts and its noise schedule stay what they were.

    Args:
        pipe: a diffusers pipeline.
        name: one of `SAMPLERS`.

    Raises:
        ValueError: an unknown name; a sampler that cannot keep the model's prediction type or its
            noise schedule. The pipeline keeps its scheduler then.
    """
    sampler = find_sampler(name)
    # of a prior and a decoder in one the decoder has a scheduler of its own
    inner = sampling_pipeline(pipe)
    made = _of_flow(inner, name) if _is_flow(inner.scheduler) else _of_betas(inner, sampler)
    pipe.scheduler = inner.scheduler = made


def _is_flow(scheduler: Any) -> bool:
    """Whether x = (1 - sigma)·x0 + sigma·eps and the model predicts eps - x0."""
    rule = SCHEDULERS.get(type(scheduler).__name__)
    if rule is None or scheduler_rule(scheduler).prediction_of(scheduler) != "flow_prediction":
        return False
    return rule.formula in (None, flow_formula) and not scheduler.config.get("invert_sigmas")


def _of_flow(pipe: Any, name: str) -> Any:
    sampler, own = SAMPLERS[name], pipe.scheduler
    if sampler.flow is None:
        able = ", ".join(key for key, other in SAMPLERS.items() if other.flow)
        raise ValueError(
            f"got sampler {name!r} for {type(pipe).__name__}, whose model is of flow matching, "
            f"expected one of {able}"
        )
    cls: Any = getattr(importlib.import_module("diffusers"), sampler.flow)
    if type(own) is not cls:
        _refuse_spacing(own, cls)
    shift = own.config.get("flow_shift", own.config.get("shift", 1.0))
    key = "flow_shift" if sampler.flow_options else "shift"
    return _made(cls, own, {key: shift, **sampler.flow_options})


def _refuse_spacing(own: Any, cls: Any) -> None:
    found = [name for name in _SPACING if own.config.get(name)]
    if own.config.get("use_dynamic_shifting") and own.config.get("time_shift_type") == "linear":
        found.append("time_shift_type='linear'")
    if found:
        raise ValueError(
            f"got {cls.__name__} for a flow model with {', '.join(found)}, expected "
            f"{type(own).__name__}: another class spaces the noise levels in another way"
        )


def _of_betas(pipe: Any, sampler: Sampler) -> Any:
    own = pipe.scheduler
    before = getattr(own, "alphas_cumprod", None)
    rule = SCHEDULERS.get(type(own).__name__)
    if before is None or rule is None or rule.formula is not None:
        raise ValueError(
            f"got a sampler for {type(pipe).__name__} with {type(own).__name__}, whose noise "
            "schedule no other scheduler is known to keep; expected none"
        )
    cls: Any = getattr(importlib.import_module("diffusers"), sampler.scheduler)
    kept = {name: own.config[name] for name in _BETAS if name in own.config}
    kept["prediction_type"] = scheduler_rule(own).prediction_of(own)
    made = _made(cls, own, {**kept, **sampler.options})
    after = made.alphas_cumprod
    if after.shape != before.shape or not torch.allclose(after, before.to(after), atol=1e-6):
        raise ValueError(
            f"got {sampler.scheduler} in the place of {type(own).__name__}, expected one with the "
            "model's noise schedule: its alphas_cumprod are others"
        )
    return made


def _made(cls: Any, own: Any, options: dict[str, Any]) -> Any:
    """The scheduler, with the config of another.

    Raises:
        ValueError: it does not know a setting that the schedule depends on, or not the prediction.
    """
    made = cls.from_config(own.config, **options)
    for name in _SCHEDULE:
        wanted = own.config.get(name)
        if wanted and name not in cls._get_init_keys(cls):
            raise ValueError(
                f"got {cls.__name__} for a model with {name}={wanted!r}, expected a scheduler that "
                f"knows it: the noise schedule would be another"
            )
    if str(own.config.get("variance_type")).startswith("learned") and (
        "variance_type" not in cls._get_init_keys(cls)
    ):
        raise ValueError(
            f"got {cls.__name__} for a model that predicts its variance too, expected a scheduler "
            "that knows variance_type"
        )
    if made.config.get("prediction_type", "flow_prediction") not in _predictions(cls):
        raise ValueError(
            f"got {cls.__name__} for a model that predicts {made.config.prediction_type!r}, "
            f"expected a scheduler for that (it can do {', '.join(_predictions(cls))})"
        )
    return made


def _predictions(cls: Any) -> tuple[str, ...]:
    return SCHEDULERS[cls.__name__].predictions


def sampler_label(pipe: Any) -> str:
    """What other tools call the scheduler of `pipe`; its class name when they have no word."""
    name = type(sampling_pipeline(pipe).scheduler).__name__
    found = (s.label for s in SAMPLERS.values() if name in (s.scheduler, s.flow))
    return next(found, name)
