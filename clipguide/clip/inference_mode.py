"""Tensors that outlive a call: usable for guidance later, in whatever mode they were made."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def ordinary_tensors() -> Generator[None]:
    """Inside, tensors are ordinary and without graph, also where `torch.inference_mode` is on.

    For what is cached or kept in an object: an inference tensor "cannot be saved for backward", so
    one use of a scorer in inference mode would end guidance for the whole process.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield
