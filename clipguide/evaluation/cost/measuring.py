"""Seconds and memory of a step, as ratios to an unguided step of the same run."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from clipguide.evaluation.cost.rig import STEPS, Rig
from clipguide.evaluation.cost.variants import UNGUIDED, VARIANTS, entered, run


@dataclass(frozen=True)
class Measured:
    """One variant: per step, and over an unguided step.

    Attributes:
        seconds: median of a step.
        seconds_ratio, peak_ratio: over the unguided step.
        peak_bytes: the most that tensors made during the call held at once, weights apart.
    """

    variant: str
    seconds: float
    seconds_ratio: float
    peak_bytes: int
    peak_ratio: float


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations make, until they are freed; `peak` is the most.

    Storages that were there before, weights, are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in given | self._seen:
                self._track(tensor.untyped_storage())
        return result

    def _track(self, storage: Any) -> None:
        key, size = int(storage._cdata), int(storage.nbytes())
        self._seen.add(key)
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._live -= size


def _key(tensor: Tensor) -> int:
    storage: Any = tensor.untyped_storage()
    return int(storage._cdata)


def measure(rig: Rig, device: str, repeats: int) -> list[Measured]:
    """Every variant on a rig; repeats are interleaved, so that a busy machine slows all alike."""
    variants = {
        name: variant
        for name, variant in VARIANTS.items()
        if rig.shape.community or not variant.community
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, int] = {}
    for name, variant in variants.items():
        with entered(rig, variant):
            peaks[name] = _peak(lambda v=variant: run(rig, v), device)
    for _ in range(repeats):
        for name, variant in variants.items():
            with entered(rig, variant):
                seconds[name].append(_seconds(lambda v=variant: run(rig, v), device) / STEPS)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        Measured(
            name,
            medians[name],
            medians[name] / medians[UNGUIDED],
            peaks[name],
            peaks[name] / peaks[UNGUIDED],
        )
        for name in variants
    ]


def _seconds(call: Callable[[], object], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - start


def _peak(call: Callable[[], object], device: str) -> int:
    if device.startswith("cuda"):
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    with LiveBytes() as live:
        call()
    return live.peak


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
