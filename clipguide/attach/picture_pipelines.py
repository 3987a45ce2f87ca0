"""A text-to-image pipeline's twin that starts from a picture, of the same components."""

from __future__ import annotations

import inspect
from typing import Any


def from_picture(pipe: Any, *, mask: bool = False) -> Any:
    """A pipeline that takes `image` and `strength`, and `mask_image` with `mask`.

    Args:
        pipe: any pipeline; one that takes them already is returned itself.
        mask: whether only a part of the picture may change.

    Returns:
        diffusers' own class for the task, on the same components: no weights are copied.

    Raises:
        ValueError: diffusers has none for this pipeline.

    Example:
        >>> type(from_picture(load_starter())).__name__
        'StableDiffusionImg2ImgPipeline'
    """
    wanted = ("image", "mask_image") if mask else ("image",)
    if all(name in inspect.signature(type(pipe).__call__).parameters for name in wanted):
        return pipe
    from diffusers.pipelines.auto_pipeline import (
        AutoPipelineForImage2Image,
        AutoPipelineForInpainting,
    )

    task: Any = AutoPipelineForInpainting if mask else AutoPipelineForImage2Image
    try:
        return task.from_pipe(pipe)
    except ValueError as error:
        what = "a masked part of one" if mask else "a picture"
        raise ValueError(
            f"got {type(pipe).__name__}, for which diffusers has no pipeline that starts from "
            f"{what}"
        ) from error


def native_size(pipe: Any) -> tuple[int, int] | None:
    """(width, height) in pixels that a pipeline makes where it is not told; None: not known."""
    side: Any = getattr(pipe, "default_sample_size", None)
    for name in ("unet", "transformer"):
        config: Any = getattr(getattr(pipe, name, None), "config", None)
        side = side or getattr(config, "sample_size", None)
    scale: Any = getattr(pipe, "vae_scale_factor", None)
    if not isinstance(side, int) or not isinstance(scale, int):
        return None
    return side * scale, side * scale
