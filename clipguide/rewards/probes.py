"""What made the gradient non-finite: taps on the values that pass from component to component.

A reward calls `probe("CLIP", embeddings)` on what each of its components returns. Outside guidance
that is a no-op. Under guidance the taps say, for each sample, which component first returned a
non-finite value, or which one's backward pass turned a finite gradient into a non-finite one.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

_probes: ContextVar[Probes | None] = ContextVar("clipguide_probes", default=None)


def finite_samples(values: Tensor, batch: int) -> Tensor:
    """Which samples are finite, (batch,) bool; `values` is (batch·k, ...), sample after sample."""
    return values.detach().isfinite().reshape(batch, -1).all(dim=1)


@dataclass
class _Tap:
    component: str
    value: Tensor
    gradient_finite: Tensor | None = None  # (B,), once the backward pass has come by


class Probes:
    """The taps of one evaluation of a batch."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._taps: list[_Tap] = []

    def add(self, component: str, value: Tensor) -> None:
        """Taps what `component` returned: (B·k, ...), the k entries of a sample consecutive."""
        tap = _Tap(component, value)
        if value.requires_grad:

            def passed(gradient: Tensor) -> None:
                tap.gradient_finite = finite_samples(gradient, self._batch).cpu()

            value.register_hook(passed)
        self._taps.append(tap)

    def nonfinite_source(self, sample: int) -> str:
        """The component that made this sample's reward or gradient non-finite."""
        for tap in self._taps:  # forward: the first non-finite value
            if not finite_samples(tap.value, self._batch)[sample]:
                return tap.component
        bad = -1  # backward: the last tap whose gradient is bad; the next component made it so
        for index, tap in enumerate(self._taps):
            if tap.gradient_finite is not None and not tap.gradient_finite[sample]:
                bad = index
        return self._taps[min(bad + 1, len(self._taps) - 1)].component


@contextmanager
def watching(probes: Probes) -> Generator[None]:
    """Sends what `probe` sees to `probes` while the context is open."""
    token = _probes.set(probes)
    try:
        yield
    finally:
        _probes.reset(token)


def probe(component: str, value: Tensor) -> Tensor:
    """Taps `value`, what `component` returned, and hands it back unchanged."""
    probes = _probes.get()
    if probes is not None and torch.is_tensor(value):
        probes.add(component, value)
    return value
