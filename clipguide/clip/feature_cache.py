"""Features of a frozen backbone, computed once and kept on disk by the content they were made of.

A row is found by the SHA-256 of its input (a file's bytes, a text) and by a fingerprint of
everything else that decides it (weights, pooling, preprocessing, view). Rows are written in parts;
each part is whole or not there, so a killed run goes on where it was. A row is a vector, or a state
of any shape inside a backbone; rows of texts may differ in their first dimension.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipguide.batching import batches
from clipguide.files import atomic_path

PART = 2048
"""Most rows of one part: what a kill can lose."""
PART_BYTES = 2**28
"""Bytes of rows that make a part, too."""

Compute = Callable[[list[int]], dict[int, Tensor]]
"""Positions of inputs -> their rows by position; one that cannot be read is left out."""


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
        folder: where caches are; made when the first row is written; None: in memory alone.
        fingerprint: of the weights and of everything done to an input before and after them.
        dtype: what rows are kept as.

    Example:
        >>> cache = FeatureCache(Path("cache"), fingerprint(weights="...", pooling="mean"))
        >>> keys = [content_key(text.encode()) for text in ("a dog", "a cat")]
        >>> cache.fill(keys, lambda places: {place: torch.ones(384) for place in places})
        2
        >>> cache.rows(keys).shape
        torch.Size([2, 384])
    """

    def __init__(
        self, folder: Path | None, fingerprint: str, dtype: torch.dtype = torch.float32
    ) -> None:
        self.folder = None if folder is None else folder / fingerprint[:24]
        self._dtype = dtype
        self._rows: dict[str, Tensor] = {}
        for path in sorted(self.folder.glob("part-*.safetensors")) if self.folder else ():
            part = load_file(path)
            names = [bytes(row).hex() for row in part["keys"].tolist()]
            self._rows.update(zip(names, _unpacked(part), strict=True))

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

        Raises:
            ValueError: a row that the type of the cache cannot hold.
        """
        first = {key: place for place, key in reversed([*enumerate(keys)])}
        missing = sorted(place for key, place in first.items() if key not in self._rows)
        fresh: dict[str, Tensor] = {}
        count = size = 0
        for places in progress(batches(missing, batch)):
            found = {keys[place]: self._typed(row) for place, row in compute(places).items()}
            fresh.update(found)
            count += len(found)
            size += sum(row.nbytes for row in found.values())
            if len(fresh) >= PART or size >= PART_BYTES:
                self._keep(fresh)
                fresh, size = {}, 0
        self._keep(fresh)
        return count

    def _typed(self, row: Tensor) -> Tensor:
        kept = row.detach().to(self._dtype).cpu()
        if not kept.isfinite().all():
            raise ValueError(f"got features that {self._dtype} cannot hold, expected finite ones")
        return kept

    def _keep(self, rows: dict[str, Tensor]) -> None:
        if not rows:
            return
        names = torch.tensor([list(bytes.fromhex(key)) for key in rows], dtype=torch.uint8)
        packed = _packed([*rows.values()])
        name = f"part-{content_key(''.join(rows).encode())[:16]}.safetensors"
        if self.folder is not None:
            with atomic_path(self.folder / name) as path:
                save_file({"keys": names, **packed}, path)
        self._rows.update(zip(rows, _unpacked(packed), strict=True))

    def rows(self, keys: Sequence[str]) -> Tensor:
        """(N, D), row i of input i; raises as `each`."""
        return torch.stack(self.each(keys))

    def each(self, keys: Sequence[str]) -> list[Tensor]:
        """The rows, which may differ in their first dimension; they share the cache's memory.

        Raises:
            ValueError: a key that was never computed (an input that cannot be read).
        """
        absent = [key for key in keys if key not in self._rows]
        if absent:
            raise ValueError(f"got {len(absent)} inputs without features, expected none")
        if not keys:
            raise ValueError("got no keys, expected one or more")
        return [self._rows[key] for key in keys]


def _packed(rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Rows as the tensors of a file: stacked, or end to end with their lengths."""
    if len({row.shape for row in rows}) == 1:
        return {"rows": torch.stack([*rows])}
    return {"rows": torch.cat([*rows]), "lengths": torch.tensor([len(row) for row in rows])}


def _unpacked(part: Mapping[str, Tensor]) -> Sequence[Tensor]:
    lengths = part.get("lengths")
    return part["rows"].unbind() if lengths is None else part["rows"].split(lengths.tolist())
