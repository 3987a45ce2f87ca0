"""Rewards of x0 previews by step, kept in a file, and searches replayed on them: no model runs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, is_zipfile

import numpy as np
from numpy.typing import NDArray

from clipguide.files import atomic_path
from clipguide.search.pruning_plan import PruningPlan

ARRAYS = {"frozen": False, "noise_aware": True}
"""Name of an array in a file -> whether its scorer was trained on previews."""
ORDERS = 24
"""Random orders of a prompt's pictures that a replay goes through."""

Floats = NDArray[np.float64]
Orders = NDArray[np.int64]


@dataclass(frozen=True)
class PreviewRewards:
    """What one scorer gave the x0 previews of many pictures after each denoiser call.

    Attributes:
        values: (prompts, pictures, T); the last is the finished picture's.
        noise_aware: whether the scorer was trained on previews.
    """

    values: Floats
    noise_aware: bool

    @property
    def steps(self) -> int:
        """T, denoiser calls of a picture."""
        return self.values.shape[2]

    @property
    def deviations(self) -> Floats:
        """(prompts, pictures): the final reward less its prompt's mean, in its prompt's standard
        deviation; 0 for a prompt whose pictures are all alike."""
        final = self.values[:, :, -1]
        spread = final.std(axis=1, keepdims=True)
        return (final - final.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)

    def orders(self, seed: int = 0, count: int = ORDERS) -> Orders:
        """(count, prompts, pictures): random orders of each prompt's pictures."""
        prompts, pictures, _ = self.values.shape
        rng = np.random.default_rng(seed)
        rows = np.tile(np.arange(pictures), (count, prompts, 1))
        return rng.permuted(rows, axis=2)

    def of_prompts(self, rows: slice) -> PreviewRewards:
        """Some of the prompts."""
        return PreviewRewards(self.values[rows], self.noise_aware)

    def replay(self, plan: PruningPlan, orders: Orders) -> Floats:
        """(orders, prompts): `deviations` of the picture that the plan ends with.

        The samples started are the first of each order.

        Raises: ValueError for fewer pictures than are started.
        """
        pictures = self.values.shape[1]
        if plan.started > pictures:
            raise ValueError(
                f"got {pictures} pictures of each prompt, expected at least {plan.started}, which "
                "this budget starts"
            )
        prompt = np.arange(len(self.values))[None, :, None]
        some = orders[:, :, : plan.started]
        for calls, count in zip(plan.calls, plan.counts[1:], strict=True):
            rewards = self.values[prompt, some, calls - 1]
            first = np.argsort(-rewards, axis=2, kind="stable")[:, :, :count]
            some = np.take_along_axis(some, first, axis=2)
        final = self.values[prompt, some, -1]
        best = np.take_along_axis(some, final.argmax(axis=2)[:, :, None], axis=2)
        return self.deviations[prompt, best][:, :, 0]


def load_preview_rewards(path: Path, array: str | None = None) -> PreviewRewards:
    """One array of an npz file, (prompts, pictures, T) numbers.

    Args:
        path: the file.
        array: "frozen" or "noise_aware"; None: the one there is.

    Raises: ValueError for a file that is none, without the array or with both and none named, or
        for numbers of another shape or not finite.
    """
    arrays = _read(path)
    if array is None:
        if len(arrays) != 1:
            raise ValueError(f"{path}: got arrays {[*arrays]}, expected one to be named")
        array = next(iter(arrays))
    if array not in arrays:
        raise ValueError(f"{path}: got arrays {[*arrays]}, expected {array!r} among them")
    found = arrays[array]
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{path}: got {array} of type {found.dtype}, expected numbers")
    values = found.astype(np.float64)
    if values.ndim != 3 or values.size == 0 or values.shape[2] < 2:
        raise ValueError(f"{path}: got {array} of shape {values.shape}, expected (P, M, T), T > 1")
    if not np.isfinite(values).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"{path}: got {array}{list(place)} not finite, expected finite rewards")
    return PreviewRewards(values, ARRAYS[array])


def arrays_of(path: Path) -> list[str]:
    """The names of the arrays that a file has. ValueError: no npz file."""
    return [*_read(path)]


def save_preview_rewards(path: Path, rewards: PreviewRewards) -> None:
    """The npz file that `load_preview_rewards` reads, one array by whether the scorer is
    noise-aware; whole or not at all."""
    name = next(name for name, aware in ARRAYS.items() if aware == rewards.noise_aware)
    with atomic_path(path) as part, part.open("wb") as file:
        arrays: dict[str, Any] = {name: rewards.values}  # numpy's own keywords are typed otherwise
        np.savez(file, **arrays)


def _read(path: Path) -> Mapping[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            if not is_zipfile(file):  # np.load takes it for a pickle, or for one array without name
                raise BadZipFile("no archive of named arrays")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files if name in ARRAYS}
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read as an npz file ({reason})") from error


_DAMAGE = (OSError, ValueError, BadZipFile, EOFError, KeyError, zlib.error,
           NotImplementedError, RuntimeError, MemoryError, OverflowError)  # fmt: skip
"""What a damaged archive is answered with, by zipfile, zlib and numpy: of a wrong compression, a
password, lengths that do not fit."""
