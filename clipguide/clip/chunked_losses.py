"""The losses of `clipguide.clip.losses` a block of rows at a time: the same value and gradient.

The dense forms hold several B x B matrices. Here a block of `chunk` images meets all captions, adds
to a running log-sum-exp of every caption's column, and is freed; the backward pass computes the
block again. Memory grows with chunk · B instead of B².

Source: Gao et al. 2021 for the encoders (https://arxiv.org/abs/2101.06983); the running log-sum-exp
is that of Milakov & Gimelshein 2018 (https://arxiv.org/abs/1805.02867).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from clipguide.batching import slices
from clipguide.clip.losses import candidates, check_pairs, same_owner, target_logits

CHUNK = 256
"""Images that meet all captions at once."""


@dataclass(frozen=True)
class _Batch:
    images: Tensor
    texts: Tensor
    scale: Tensor | float
    negatives: Tensor | None
    owners: Tensor | None

    def own(self, start: int, stop: int) -> Tensor:
        """(stop - start, B): whether image i and caption j are a positive pair."""
        owners = self.owners
        if owners is None:
            owners = torch.arange(len(self.images), device=self.images.device)
        return same_owner(owners[start:stop], owners)

    def likeness(self, start: int, stop: int) -> Tensor:
        """Rows of the soft targets before their softmax, (stop - start, B)."""
        rows = slice(start, stop)
        return target_logits(self.images, self.texts, self.scale, self.owners, rows)


def chunked_infonce(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    hard_negatives: Tensor | None = None,
    owners: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """`clipguide.clip.losses.infonce`, `chunk` images at a time.

    **Cost**: each block of logits is computed twice, once forward and once backward.

    Raises:
        ValueError: as `infonce`, or `chunk` below 1.
    """
    check_pairs(image_features, text_features, owners)
    batch = _Batch(image_features, text_features, logit_scale, hard_negatives, owners)

    def targets(start: int, stop: int) -> tuple[Tensor, Tensor]:
        own = batch.own(start, stop).to(image_features.dtype)
        share = own / own.sum(dim=1, keepdim=True)  # symmetric: positives share an owner
        return share, share

    return _cross_entropy(batch, targets, chunk)


def chunked_soft(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    hard_negatives: Tensor | None = None,
    owners: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """`clipguide.clip.losses.soft`, `chunk` images at a time; cost and errors as above.

    The normalisers of the targets take one more pass over the blocks.
    """
    check_pairs(image_features, text_features, owners)
    batch = _Batch(image_features, text_features, logit_scale, hard_negatives, owners)
    blocks = _blocks(len(image_features), chunk)
    found = [_largest_and_sum(batch.likeness(*block)) for block in blocks]
    largest, sums = (torch.cat(parts) for parts in zip(*found, strict=True))  # (B,) each

    def targets(start: int, stop: int) -> tuple[Tensor, Tensor]:
        rows = batch.likeness(start, stop)  # a row of it is also a column: it is symmetric
        own = (rows - largest[start:stop].unsqueeze(1)).exp() / sums[start:stop].unsqueeze(1)
        return own, (rows - largest).exp() / sums

    return _cross_entropy(batch, targets, chunk)


def chunked_sigmoid(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    bias: Tensor | float,
    hard_negatives: Tensor | None = None,
    owners: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> Tensor:
    """`clipguide.clip.losses.sigmoid`, `chunk` images at a time; cost and errors as above."""
    check_pairs(image_features, text_features, owners)
    batch = _Batch(image_features, text_features, logit_scale, hard_negatives, owners)
    captions = candidates(text_features, hard_negatives)

    def block(start: int, stop: int) -> Tensor:
        logits = logit_scale * image_features[start:stop] @ captions.T + bias
        own = functional.pad(batch.own(start, stop), (0, len(captions) - len(image_features)))
        return functional.softplus(torch.where(own, -logits, logits)).sum()

    parts: list[Tensor] = [
        _recomputed(block, *place) for place in _blocks(len(image_features), chunk)
    ]
    return torch.stack(parts).sum() / len(image_features)


def _cross_entropy(
    batch: _Batch, targets: Callable[[int, int], tuple[Tensor, Tensor]], chunk: int
) -> Tensor:
    """Mean over both directions of log-sum-exp minus the target's mean logit."""

    def block(start: int, stop: int) -> tuple[Tensor, Tensor]:
        images = batch.images[start:stop]
        logits = batch.scale * images @ batch.texts.T  # (c, B)
        with torch.no_grad():
            to_text, to_image = targets(start, stop)
        rows = logits
        if batch.negatives is not None:
            rows = torch.cat([logits, batch.scale * images @ batch.negatives.T], dim=1)
        missed = rows.logsumexp(dim=1) - ((to_text + to_image) * logits).sum(dim=1)
        return missed, logits.logsumexp(dim=0)  # (c,), (B,)

    missed: list[Tensor] = []
    running = batch.images.new_full((len(batch.images),), -torch.inf)
    for start, stop in _blocks(len(batch.images), chunk):
        part, columns = _recomputed(block, start, stop)
        missed.append(part)
        running = torch.logaddexp(running, columns)
    # both are large and of opposite sign: added before they are summed, fewer digits are lost
    return (torch.cat(missed) + running).mean() / 2


def _largest_and_sum(rows: Tensor) -> tuple[Tensor, Tensor]:
    """What a softmax of rows (c, B) divides by, as it computes it: one logarithm would lose digits
    to a large scale."""
    largest = rows.amax(dim=1)
    return largest, (rows - largest.unsqueeze(1)).exp().sum(dim=1)


def _recomputed(block: Callable[[int, int], object], start: int, stop: int) -> Any:
    """The block, whose inner values are computed again when its gradient is asked for."""
    # nothing in a block is random
    return checkpoint(block, start, stop, use_reentrant=False, preserve_rng_state=False)


def _blocks(count: int, chunk: int) -> list[tuple[int, int]]:
    if chunk < 1:
        raise ValueError(f"got chunk {chunk}, expected 1 or more")
    return [(rows.start, rows.stop) for rows in slices(count, chunk)]
