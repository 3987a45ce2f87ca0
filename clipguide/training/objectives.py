"""The losses by name, from what the heads return to a scalar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from clipguide.clip.chunked_losses import chunked_infonce, chunked_sigmoid, chunked_soft
from clipguide.clip.losses import infonce, sigmoid, soft, soft_published
from clipguide.clip.trainable import TrainableClip


@dataclass(frozen=True)
class Embedded:
    """A batch after the heads, not of unit length.

    Attributes:
        images, texts: (B, D); caption i belongs to image i.
        owners: (B,) the image each pair shows; None when all differ.
        negatives: (N, D) hard negative captions, or None.
        chunk: images that meet all captions at once in the chunked losses; 0 for the dense ones.
    """

    images: Tensor
    texts: Tensor
    owners: Tensor | None = None
    negatives: Tensor | None = None
    chunk: int = 0


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1)


def _infonce(model: TrainableClip, batch: Embedded) -> Tensor:
    pairs = (_unit(batch.images), _unit(batch.texts), model.scale(), _wrong(batch), batch.owners)
    return chunked_infonce(*pairs, chunk=batch.chunk) if batch.chunk else infonce(*pairs)


def _soft(model: TrainableClip, batch: Embedded) -> Tensor:
    pairs = (_unit(batch.images), _unit(batch.texts), model.scale(), _wrong(batch), batch.owners)
    return chunked_soft(*pairs, chunk=batch.chunk) if batch.chunk else soft(*pairs)


def _published(model: TrainableClip, batch: Embedded) -> Tensor:
    return soft_published(batch.images, batch.texts)  # T = 1, no hard negatives, no owners


def _sigmoid(model: TrainableClip, batch: Embedded) -> Tensor:
    features = (_unit(batch.images), _unit(batch.texts), model.scale(), model.bias)
    rest = (_wrong(batch), batch.owners)
    if batch.chunk:
        return chunked_sigmoid(*features, *rest, chunk=batch.chunk)
    return sigmoid(*features, *rest)


def _wrong(batch: Embedded) -> Tensor | None:
    return None if batch.negatives is None else _unit(batch.negatives)


LOSSES: dict[str, Callable[[TrainableClip, Embedded], Tensor]] = {
    "infonce": _infonce,
    "soft": _soft,
    "soft_published": _published,
    "sigmoid": _sigmoid,
}
"""Name of a loss in a configuration -> the loss of a batch."""
