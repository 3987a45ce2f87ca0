"""The arguments of a pipeline call, for whatever pipeline it is."""

from __future__ import annotations

import inspect
from typing import Any

from clipguide.generation.settings import Settings


def call_arguments(pipe: Any, settings: Settings, count: int) -> dict[str, Any]:
    """Everything but prompts and seeds for a call of `pipe` with `count` prompts.

    Raises: ValueError when a setting was given that this kind of pipeline does not have.
    """
    given = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.cfg_scale,
        "width": settings.width,
        "height": settings.height,
    }
    arguments: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if settings.negative:
        arguments["negative_prompt"] = [settings.negative] * count
    known = inspect.signature(pipe.__call__).parameters
    unknown = [name for name in ("prompt", *arguments) if name not in known]
    if unknown:
        raise ValueError(f"{type(pipe).__name__} does not take {', '.join(unknown)}")
    return arguments
