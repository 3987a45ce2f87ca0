"""The arguments of a pipeline call, for whatever pipeline it is."""

from __future__ import annotations

import inspect
from typing import Any

from clipguide.attach.picture_pipelines import native_size
from clipguide.generation.settings import Settings
from clipguide.generation.start import StartPictures


def call_arguments(
    pipe: Any, settings: Settings, count: int, start: StartPictures | None = None
) -> dict[str, Any]:
    """Everything but prompts and seeds for a call of `pipe` with `count` prompts, which may start
    from pictures; those have the size asked for, else the model's own.

    Raises: ValueError when a setting was given that this kind of pipeline does not have.
    """
    given = {
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.cfg_scale,
        "width": settings.width,
        "height": settings.height,
    }
    arguments: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    known = inspect.signature(pipe.__call__).parameters
    if start is not None:
        native = native_size(pipe)
        own = native or start.image.size
        size = arguments.pop("width", own[0]), arguments.pop("height", own[1])
        arguments |= start.arguments(size)
        named = dict(zip(("width", "height"), size, strict=True))
        arguments |= {name: side for name, side in named.items() if name in known}
        if settings.start.strength is not None:
            arguments["strength"] = settings.start.strength
    if settings.negative:
        arguments["negative_prompt"] = [settings.negative] * count
    unknown = [name for name in ("prompt", *arguments) if name not in known]
    if unknown:
        raise ValueError(f"{type(pipe).__name__} does not take {', '.join(unknown)}")
    return arguments
