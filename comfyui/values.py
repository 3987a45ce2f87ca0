"""ComfyUI's values as clipguide takes them: pictures, and texts of several prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clipguide.clip.inference_mode import ordinary_tensors

SEPARATOR = "---"
"""The line between the prompts of a batch."""


def pictures(image: Any) -> Tensor:
    """A ComfyUI IMAGE, (B, H, W, 3 or 4), as (B, 3, H, W) float32 in [0, 1]; an alpha is left out.

    ComfyUI's own nodes leave values a little outside of [0, 1] and clip when they save; so does
    this.

    Raises:
        ValueError: no picture: another shape, or values that are not finite.
    """
    if not isinstance(image, Tensor):
        raise ValueError(f"got {type(image).__name__} as a picture, expected a ComfyUI IMAGE")
    if image.ndim != 4 or image.shape[3] not in (3, 4) or 0 in image.shape:
        raise ValueError(
            f"got a picture of shape {tuple(image.shape)}, expected a ComfyUI IMAGE (B, H, W, 3)"
        )
    if not bool(image.isfinite().all()):
        raise ValueError("got a picture with NaN or infinite values, expected values in [0, 1]")
    return ordinary(image[..., :3].permute(0, 3, 1, 2).float().clamp(0, 1).contiguous())


def as_image(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) as a ComfyUI IMAGE, (B, H, W, 3)."""
    return pictures.permute(0, 2, 3, 1).contiguous()


def ordinary(tensor: Tensor) -> Tensor:
    """A copy that gradients can go through: nodes run in inference mode, whose tensors refuse."""
    with ordinary_tensors():
        return tensor.clone()


def sections(text: str) -> list[str]:
    """The prompts of a batch: what stands between the lines of `---`.

    Raises:
        ValueError: an empty one.

    Example:
        >>> sections("a red fox\\n---\\na cat")
        ['a red fox', 'a cat']
    """
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip() == SEPARATOR:
            parts.append([])
        else:
            parts[-1].append(line)
    found = ["\n".join(lines).strip() for lines in parts]
    if not all(found):
        raise ValueError(f"got an empty prompt in {text!r}, expected some text")
    return found


def one_or_all(texts: list[str]) -> str | list[str]:
    """A single prompt for the whole batch as itself."""
    return texts[0] if len(texts) == 1 else texts


def device_of(choice: str) -> torch.device:
    """ComfyUI's own device for "auto", else the CPU."""
    import comfy.model_management

    if choice == "auto":
        return comfy.model_management.get_torch_device()
    return torch.device("cpu")
