"""Means of the losses over the steps of an epoch, kept by the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class EpochMeans(nn.Module):
    """Adds up losses and gives their means; buffers, so that a resumed epoch goes on with them.

    Args:
        names: of the losses.

    Attributes:
        near: steps in a row near collapse (`CollapseGuard.near`), kept here for the same reason.

    Example:
        >>> means = EpochMeans(["loss"])
        >>> means.add({"loss": 1.0}); means.add({"loss": 3.0})
        >>> means.take()
        {'loss': 2.0}
    """

    sums: Tensor
    steps: Tensor
    near: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = tuple(names)
        self.register_buffer("sums", torch.zeros(len(names), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("near", torch.zeros((), dtype=torch.long))

    def add(self, losses: Mapping[str, float]) -> None:
        """The losses of one step."""
        self.sums += torch.tensor([losses[name] for name in self._names], dtype=torch.float64)
        self.steps += 1

    def take(self) -> dict[str, float]:
        """The means of the steps added since the last call, one at least."""
        means: list[float] = (self.sums / self.steps).tolist()
        self.sums.zero_()
        self.steps.zero_()
        return dict(zip(self._names, means, strict=True))
