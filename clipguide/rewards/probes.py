"""What made the gradient non-finite: taps on the values that pass from component to component.

A reward calls `probe("CLIP", embeddings)` on what each of its components returns. Outside guidance
that is a no-op. Under guidance the taps say, for each sample, which component first returned a
non-finite value, or which one's backward pass turned a finite gradient into a non-finite one.

A reward that asks another one about a part of its batch says so by `of_samples`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

_probes: ContextVar[Probes | None] = ContextVar("clipguide_probes", default=None)
_samples: ContextVar[tuple[int, ...] | None] = ContextVar("clipguide_samples", default=None)


def finite_samples(values: Tensor, batch: int) -> Tensor:
    """Which samples are finite, (batch,) bool; `values` is (batch·k, ...), sample after sample."""
    return values.detach().isfinite().reshape(batch, -1).all(dim=1)


@dataclass
class _Tap:
    component: str
    value: Tensor
    samples: tuple[int, ...]  # of the batch, those that it is of
    gradient_finite: Tensor | None = None  # one for each, once the backward pass has come by

    def lost(self, sample: int) -> bool:
        """Whether it returned a non-finite value for this sample."""
        finite = finite_samples(self.value, len(self.samples))
        return not finite[self.samples.index(sample)]

    def lost_gradient(self, sample: int) -> bool:
        """Whether the gradient that came by was non-finite for this sample."""
        finite = self.gradient_finite
        return finite is not None and not finite[self.samples.index(sample)]


class Probes:
    """The taps of one evaluation of a batch."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._taps: list[_Tap] = []

    def add(self, component: str, value: Tensor) -> None:
        """Taps what `component` returned: (n·k, ...) of the n samples that it is asked about, the k
        entries of a sample consecutive."""
        whose = _samples.get()
        samples = tuple(range(self._batch)) if whose is None else whose
        if value.ndim == 0 or not samples or value.shape[0] % len(samples):
            return  # of a function that asked about some of them and did not say which
        tap = _Tap(component, value, samples)
        if value.requires_grad:

            def passed(gradient: Tensor) -> None:
                tap.gradient_finite = finite_samples(gradient, len(tap.samples)).cpu()

            value.register_hook(passed)
        self._taps.append(tap)

    def nonfinite_source(self, sample: int) -> str:
        """The component that made this sample's reward or gradient non-finite."""
        taps = [tap for tap in self._taps if sample in tap.samples]
        for tap in taps:  # forward: the first non-finite value
            if tap.lost(sample):
                return tap.component
        bad = -1  # backward: the last tap whose gradient is bad; the next component made it so
        for index, tap in enumerate(taps):
            if tap.lost_gradient(sample):
                bad = index
        return taps[min(bad + 1, len(taps) - 1)].component


@contextmanager
def watching(probes: Probes) -> Generator[None]:
    """Sends what `probe` sees to `probes` while the context is open."""
    token = _probes.set(probes)
    try:
        yield
    finally:
        _probes.reset(token)


@contextmanager
def of_samples(rows: Sequence[int]) -> Generator[None]:
    """What is probed while the context is open is of these rows of the batch, each with entries of
    its own; within another such context, of those rows of its rows."""
    outer = _samples.get()
    token = _samples.set(tuple(rows) if outer is None else tuple(outer[row] for row in rows))
    try:
        yield
    finally:
        _samples.reset(token)


def probe(component: str, value: Tensor) -> Tensor:
    """Taps `value`, what `component` returned, and hands it back unchanged."""
    probes = _probes.get()
    if probes is not None and torch.is_tensor(value):
        probes.add(component, value)
    return value
