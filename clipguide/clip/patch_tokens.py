"""What the image tower of a CLIP makes of each patch, layer by layer."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from clipguide.clip.dual_encoder import DualEncoder
from clipguide.clip.open_clip_model import OpenClipModel
from clipguide.clip.protocol import ClipModel
from clipguide.clip.transformers_clip import TransformersClip


def patch_tokens(model: ClipModel, pixels: Tensor) -> list[Tensor]:
    """The features of each place after each layer, (B, N, C) each, the class token left out.

    Args:
        model: of transformers or open_clip, or a `DualEncoder`; a CNN's layers are its stages.
        pixels: normalised, (B, 3, h, w).

    Cost: one pass of the image tower, all of its layers' states in memory.

    Raises:
        ValueError: a model that does not hand out its layers.

    Example:
        >>> [layer.shape for layer in patch_tokens(scorer.model, torch.randn(1, 3, 32, 32))]
        [torch.Size([1, 16, 32]), torch.Size([1, 16, 32])]
    """
    dtype = next(model.module.parameters()).dtype
    if isinstance(model, OpenClipModel):
        states = _of_open_clip(model, pixels)
    elif isinstance(model, TransformersClip | DualEncoder):
        tower = model.image.model if isinstance(model, DualEncoder) else _vision(model)
        output: Any = tower(pixel_values=pixels.to(dtype), output_hidden_states=True)
        states = cast("tuple[Tensor, ...]", output.hidden_states)[1:]  # 0 is before the first layer
    else:
        raise ValueError(f"{model.name}: got a {type(model).__name__}, which keeps its layers")
    return [_places(state).float() for state in states]


def _vision(model: TransformersClip) -> Any:
    tower: Any = getattr(model.module, "vision_model", None)
    if tower is None:
        kind = type(model.module).__name__
        raise ValueError(f"{model.name}: got a {kind}, expected one with a vision_model")
    return tower


def _of_open_clip(model: OpenClipModel, pixels: Tensor) -> list[Tensor]:
    tower: Any = cast("Any", model.module).visual
    if not hasattr(tower, "forward_intermediates"):
        raise ValueError(f"{model.name}: got a {type(tower).__name__}, which keeps its layers")
    found: dict[str, list[Tensor]] = tower.forward_intermediates(
        pixels.to(model.dtype), intermediates_only=True
    )
    return found["image_intermediates"]  # (B, C, h, w) each


def _places(state: Tensor) -> Tensor:
    """Tokens (B, T, C) without those that stand for no place, or a map (B, C, h, w), as (B, N, C).

    Patches of a square image are a square number; what is before them is the class token.
    """
    if state.ndim == 4:
        return state.flatten(2).mT
    count = int(state.shape[1] ** 0.5) ** 2
    return state[:, state.shape[1] - count :]
