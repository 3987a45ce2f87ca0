"""A torch module under the name that the user called it by."""

from __future__ import annotations

import torch
from torch import nn


class NamedModule:
    """What the adapters of all scorers are made of.

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
    """

    settings_hash: str = ""
    """Of its settings and tokenizer, set by who loads it."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype
