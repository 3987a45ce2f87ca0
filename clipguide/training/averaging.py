"""The averaged (EMA) parameters of a run in place of the trained ones."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PREFIX = "clip."
"""Before the names of the model's parameters in the loop's checkpoint."""


@torch.no_grad()
def load_parameters(model: nn.Module, average: Mapping[str, Tensor]) -> None:
    """Copy parameters by their names in the checkpoint."""
    own = dict(model.named_parameters())
    for name, value in average.items():
        own[name.removeprefix(PREFIX)].copy_(value)


@contextmanager
def averaged(model: nn.Module, average: Mapping[str, Tensor]) -> Generator[None]:
    """The averaged parameters inside the block, the trained ones after it."""
    own = dict(model.named_parameters())
    names = [name.removeprefix(PREFIX) for name in average]
    before = {f"{PREFIX}{name}": own[name].detach().clone() for name in names}
    load_parameters(model, average)
    try:
        yield
    finally:
        load_parameters(model, before)
