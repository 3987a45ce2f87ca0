"""How large a model its settings ask for, held against the weights that are there to fill it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

_FACTOR, _SPARE = 2, 10**7  # tied weights are there once; tables of places and masks not at all


def check_size(name: str, build: Callable[[], nn.Module], files: Sequence[Path]) -> None:
    """Refuse settings of a model that its weights could not fill, before memory is taken for it.

    Args:
        name: of the model, for messages.
        build: makes the module, with weights of any values.
        files: safetensors with all of its weights.

    Cost: the modules are made without their weights; of the files, the headers are read.

    Raises:
        ValueError: more than twice as many numbers as the files hold, and 10 million more.
    """
    held = sum(_numbers(file) for file in files)
    try:
        with torch.device("meta"):
            module = build()
    except Exception:  # settings of no model, and models that cannot be made without weights:
        return  # whoever makes it for good says so
    asked = sum(weight.numel() for weight in chain(module.parameters(), module.buffers()))
    if asked > _FACTOR * held + _SPARE:
        raise ValueError(
            f"{name}: got settings of a model of {asked:,} numbers, expected about as many as its "
            f"weights hold, {held:,}"
        )


def _numbers(file: Path) -> int:
    with safe_open(file, framework="pt") as opened:
        names: list[str] = [*opened.keys()]
        return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)
