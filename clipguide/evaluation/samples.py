"""Samples of features, checked at the door of every metric of sets: finite, enough, of one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Names = Sequence[object]
"""What each row is of, for messages: paths of images, prompts."""


def as_samples(features: Tensor, names: Names | None = None, *, least: int = 2) -> Tensor:
    """(N, D) float64 on the CPU, for arithmetic in which a difference of means does not drown.

    Args:
        features: (N, D).
        names: N names; without them an image is named by its place.
        least: how many samples the statistic needs.

    Raises:
        ValueError: another shape, fewer samples, or a value that is NaN or infinite: whose.
    """
    if features.ndim != 2 or 0 in features.shape[1:]:
        raise ValueError(f"got features {tuple(features.shape)}, expected (N, D)")
    if names is not None and len(names) != len(features):
        raise ValueError(f"got {len(features)} features and {len(names)} names, expected as many")
    if len(features) < least:
        raise ValueError(f"got {len(features)} samples, expected at least {least}")
    samples = features.detach().to("cpu", torch.float64)
    good = samples.isfinite().all(dim=1)
    if not bool(good.all()):
        place = int((~good).nonzero()[0])
        who = f"image {place}" if names is None else str(names[place])
        raise ValueError(f"got NaN or infinite features of {who}, expected finite numbers")
    return samples


def as_unit_samples(features: Tensor, names: Names | None = None, *, least: int = 2) -> Tensor:
    """The same with every row of length 1.

    Raises:
        ValueError: as `as_samples`, or a row of zeros, which has no direction: whose.
    """
    samples = as_samples(features, names, least=least)
    lengths = samples.norm(dim=1, keepdim=True)
    if bool((lengths == 0).any()):
        place = int((lengths[:, 0] == 0).nonzero()[0])
        who = f"image {place}" if names is None else str(names[place])
        raise ValueError(f"got a feature of length 0 of {who}, expected a direction")
    return samples / lengths


def as_sides(generated: Tensor, real: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    """Two sets of one feature: `as_samples` of both.

    Raises:
        ValueError: as `as_samples` (it says which side), or features of two sizes.
    """
    sides: list[Tensor] = []
    for name, side in (("generated", generated), ("real", real)):
        try:
            sides.append(as_samples(side, least=least))
        except ValueError as error:
            raise ValueError(f"{name} side: {error}") from error
    if sides[0].shape[1] != sides[1].shape[1]:
        got = f"{sides[0].shape[1]} and {sides[1].shape[1]}"
        raise ValueError(f"got features of {got} numbers, expected one size on both sides")
    return sides[0], sides[1]
