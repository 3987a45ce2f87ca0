"""Samplers by name: give a pipeline another scheduler that keeps the model's noise schedule."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler class with its options, and what other tools call it."""

    scheduler: str
    label: str  # the name in AUTOMATIC1111's `parameters` text
    options: dict[str, Any] = field(default_factory=dict[str, Any])


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", "DDIM"),
    "ddpm": Sampler("DDPMScheduler", "DDPM"),
    "pndm": Sampler("PNDMScheduler", "PLMS"),
    "euler": Sampler("EulerDiscreteScheduler", "Euler"),
    "euler_a": Sampler("EulerAncestralDiscreteScheduler", "Euler a"),
    "heun": Sampler("HeunDiscreteScheduler", "Heun"),
    "dpmpp_2m": Sampler("DPMSolverMultistepScheduler", "DPM++ 2M"),
    "unipc": Sampler("UniPCMultistepScheduler", "UniPC"),
}


def find_sampler(name: str) -> Sampler:
    """The sampler called `name`; ValueError with the choices when there is none."""
    if name not in SAMPLERS:
        raise ValueError(f"got sampler {name!r}, expected one of {', '.join(SAMPLERS)}")
    return SAMPLERS[name]


def set_sampler(pipe: Any, name: str) -> None:
    """Gives `pipe` the scheduler called `name`, made from the config of the one it has.

    Raises: ValueError for an unknown name, with the choices.
    """
    sampler = find_sampler(name)
    scheduler: Any = getattr(importlib.import_module("diffusers"), sampler.scheduler)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **sampler.options)


def sampler_label(pipe: Any) -> str:
    """What other tools call the scheduler of `pipe`; its class name when they have no word."""
    name = type(pipe.scheduler).__name__
    return next((s.label for s in SAMPLERS.values() if s.scheduler == name), name)
