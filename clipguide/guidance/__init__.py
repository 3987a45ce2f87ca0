"""Guidance as pure torch: no diffusers below this line."""

from clipguide.guidance import presets
from clipguide.guidance.config import GuidanceConfig, guidance_for
from clipguide.guidance.gradient import Evaluation, evaluate
from clipguide.guidance.parameterization import NoiseLevel, Parameterization, parameterization
from clipguide.guidance.step_rule import displacement
from clipguide.guidance.trace import Skipped, Trace, TraceStep
from clipguide.guidance.window import Window

__all__ = [
    "Evaluation",
    "GuidanceConfig",
    "NoiseLevel",
    "Parameterization",
    "Skipped",
    "Trace",
    "TraceStep",
    "Window",
    "displacement",
    "evaluate",
    "guidance_for",
    "parameterization",
    "presets",
]
