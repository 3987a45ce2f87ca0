"""Features of a frozen backbone, computed once and kept on disk by the content they were made of.

A row is found by the SHA-256 of its input (a file's bytes, a text) and by a fingerprint of
everything else that decides it (weights, pooling, preprocessing, view). Rows are written in parts;
each part is whole or not there, so a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipguide.files import atomic_path

PART = 2048
"""Rows of one part: what a kill can lose."""

Compute = Callable[[list[int]], dict[int, Tensor]]
"""Positions of inputs -> their rows (D,) by position; one that cannot be read is left out."""


def content_key(data: bytes) -> str:
    """SHA-256 of an input, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(**parts: object) -> str:
    """SHA-256 of named settings, independent of their order."""
    text = json.dumps({name: str(value) for name, value in parts.items()}, sort_keys=True)
    return content_key(text.encode())


class FeatureCache:
    """Rows of features in a folder, one sub-folder for each fingerprint.

    Args:
        folder: where caches are; made when the first row is written.
        fingerprint: of the weights and of everything done to an input before and after them.

    Example:
        >>> cache = FeatureCache(Path("cache"), fingerprint(weights="...", pooling="mean"))
        >>> cache.fill(keys, lambda places: {i: encode(texts[i]) for i in places})
        >>> cache.rows(keys).shape
        torch.Size([1000, 384])
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / fingerprint[:24]
        self._rows: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("part-*.safetensors")):
            part = load_file(path)
            names = [bytes(row).hex() for row in part["keys"].tolist()]
            self._rows.update(zip(names, part["rows"], strict=True))

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def fill(
        self,
        keys: Sequence[str],
        compute: Compute,
        batch: int = 64,
        progress: Callable[[Iterable[list[int]]], Iterable[list[int]]] = iter,
    ) -> int:
        """Compute what is missing, `batch` inputs at a time in the order given, and keep it.

        Args:
            keys: of the inputs, `content_key` of each; equal inputs are computed once.
            compute: see `Compute`. **Cost**: once per `batch` missing inputs.
            progress: wraps the batches, `tqdm` for a bar.

        Returns:
            How many rows were computed.
        """
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        missing = sorted(place for key, place in first.items() if key not in self._rows)
        fresh: dict[str, Tensor] = {}
        count = 0
        for places in progress([missing[i : i + batch] for i in range(0, len(missing), batch)]):
            found = {keys[place]: row for place, row in compute(places).items()}
            fresh.update(found)
            count += len(found)
            if len(fresh) >= PART:
                self._keep(fresh)
                fresh = {}
        self._keep(fresh)
        return count

    def _keep(self, rows: dict[str, Tensor]) -> None:
        if not rows:
            return
        names = torch.tensor([list(bytes.fromhex(key)) for key in rows], dtype=torch.uint8)
        features = torch.stack([row.detach().float().cpu() for row in rows.values()])
        name = f"part-{content_key(''.join(rows).encode())[:16]}.safetensors"
        with atomic_path(self.folder / name) as path:
            save_file({"keys": names, "rows": features}, path)
        self._rows.update(zip(rows, features, strict=True))

    def rows(self, keys: Sequence[str]) -> Tensor:
        """(N, D) float32, row i of input i.

        Raises:
            ValueError: a key that was never computed (an input that cannot be read).
        """
        absent = [key for key in keys if key not in self._rows]
        if absent:
            raise ValueError(f"got {len(absent)} inputs without features, expected none")
        if not keys:
            raise ValueError("got no keys, expected one or more")
        return torch.stack([self._rows[key] for key in keys])
