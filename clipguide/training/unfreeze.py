"""Which parts of a dual encoder train, and how fast: the heads, and the last blocks of backbones.

Source of layer-wise rates: Howard & Ruder 2018 (section 3.2, https://arxiv.org/abs/1801.06146).
"""

from __future__ import annotations

from torch import nn

from clipguide.clip.dual_encoder import DualEncoder
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


def unfreeze(model: DualEncoder, settings: TrainSettings) -> dict[str, float]:
    """Set what requires gradients, and return the factor on each parameter's learning rate.

    Heads have factor 1, the last block of a backbone `backbone_rate`, each block before it
    `layer_decay` times less. The scale trains with every loss that reads it, the bias with
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
        if settings.part and count == -1 and _looks_at_the_batch(backbone):
            raise ValueError(
                f"got train.part {settings.part} for a backbone whose batch normalisation trains, "
                "expected 0, or a number of blocks to unfreeze"
            )
        if count > len(parts):
            raise ValueError(f"got {count} blocks to unfreeze, expected at most {len(parts)}")
        chosen = parts if count == -1 else parts[len(parts) - count :]
        for depth, part in enumerate(reversed(chosen)):
            part.requires_grad_(True)
            rate = settings.backbone_rate * settings.layer_decay**depth
            factors |= {id(value): rate for value in part.parameters()}
    return {name: factors.get(id(value), 1.0) for name, value in model.named_parameters()}


def _looks_at_the_batch(backbone: nn.Module) -> bool:
    return any(isinstance(part, _BATCH_NORMS) for part in backbone.modules())


def set_training(model: DualEncoder, settings: TrainSettings) -> None:
    """Training mode for the heads and for backbones that train as a whole.

    A backbone with frozen blocks stays in evaluation mode: the statistics of its batch
    normalisation belong to the frozen weights.
    """
    model.train()
    model.text.train(settings.unfreeze_text == -1)
    model.image.train(settings.unfreeze_image == -1)
