"""Which parts of a CLIP train, and how fast: the heads, and the last blocks of backbones.

Source of layer-wise rates: Howard & Ruder 2018 (section 3.2, https://arxiv.org/abs/1801.06146).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipguide.clip.trainable import TrainableClip
from clipguide.training.config import TrainSettings

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_UNUSED = ("pooler",)  # a head of the backbone that our pooling does not read


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The parts of a backbone from its input to its output: members of its lists, and the rest."""
    found: list[nn.Module] = []
    for name, child in backbone.named_children():
        if name in _UNUSED:
            continue
        if isinstance(child, nn.ModuleList):
            found += [*child]
        elif any(isinstance(inner, nn.ModuleList) for inner in child.modules()):
            found += blocks(child)
        else:
            found.append(child)
    return found


def loose(backbone: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that stand beside the blocks, by name: embeddings of places, a projection."""
    inside = {id(value) for part in blocks(backbone) for value in part.parameters()}
    inside |= {
        id(value)
        for name, child in backbone.named_children() if name in _UNUSED
        for value in child.parameters()
    }  # fmt: skip
    found = {k: value for k, value in backbone.named_parameters() if id(value) not in inside}
    return found


def unfreeze(model: TrainableClip, settings: TrainSettings, processes: int = 1) -> dict[str, float]:
    """Set what requires gradients, and return the factor on each parameter's learning rate.

    Heads have factor 1, the last block of a backbone `backbone_rate`, each block before it
    `layer_decay` times less. Parameters beside the blocks train with the first of them, projections
    with the last. The scale trains with every loss that reads it, the bias with
    `sigmoid` alone.

    Raises:
        ValueError: more blocks than the backbone has; or parts of a batch for a backbone whose
            normalisation looks at the whole of it.
    """
    model.requires_grad_(False)
    model.text_head.requires_grad_(True)
    model.image_head.requires_grad_(True)
    model.log_scale.requires_grad_(settings.loss != "soft_published")
    model.bias.requires_grad_(settings.loss == "sigmoid")
    factors: dict[int, float] = {}
    towers = (
        (model.text.model, settings.unfreeze_text),
        (model.image.model, settings.unfreeze_image),
    )
    for backbone, count in towers:
        parts = blocks(backbone)
        if count == -1 and _looks_at_the_batch(backbone):
            _refuse_parts(settings, processes)
        if count > len(parts):
            raise ValueError(f"got {count} blocks to unfreeze, expected at most {len(parts)}")
        chosen = parts if count == -1 else parts[len(parts) - count :]
        for depth, part in enumerate(reversed(chosen)):
            part.requires_grad_(True)
            rate = settings.backbone_rate * settings.layer_decay**depth
            factors |= {id(value): rate for value in part.parameters()}
        for name, value in loose(backbone).items() if count else ():
            last = "proj" in name
            if last or len(chosen) == len(parts):
                value.requires_grad_(True)
                depth = 0 if last else len(parts) - 1
                factors[id(value)] = settings.backbone_rate * settings.layer_decay**depth
    scalars = {id(model.log_scale), id(model.bias)}
    trained = {id(value) for value in model.parameters() if value.requires_grad}
    if not trained - scalars:
        raise ValueError("got nothing that trains, expected train.unfreeze_text or _image")
    return {name: factors.get(id(value), 1.0) for name, value in model.named_parameters()}


def _refuse_parts(settings: TrainSettings, processes: int) -> None:
    """Batch normalisation that trains needs the whole batch, once."""
    parts = {
        f"train.part {settings.part}": settings.part > 0,
        "train.gradient_checkpointing": settings.gradient_checkpointing,
        f"{processes} processes": processes > 1,
    }
    for got, is_so in parts.items():
        if is_so:
            raise ValueError(
                f"got {got} for a backbone whose batch normalisation trains, "
                "expected none of it, or a number of blocks to unfreeze"
            )


def _looks_at_the_batch(backbone: nn.Module) -> bool:
    return any(isinstance(part, _BATCH_NORMS) for part in backbone.modules())


def set_training(model: TrainableClip, settings: TrainSettings) -> None:
    """Training mode for the heads and for backbones that train as a whole.

    A backbone with frozen blocks stays in evaluation mode: the statistics of its batch
    normalisation belong to the frozen weights.
    """
    model.train()
    model.text.train(settings.unfreeze_text == -1)
    model.image.train(settings.unfreeze_image == -1)


def recompute(model: TrainableClip) -> None:
    """Let the blocks that train keep their inputs alone and run once more in the backward pass.

    Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost (section 4,
    https://arxiv.org/abs/1604.06174).
    """
    for backbone in (model.text.model, model.image.model):
        for part in blocks(backbone):
            if any(value.requires_grad for value in part.parameters()):
                part.forward = _recomputed(part.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return run
