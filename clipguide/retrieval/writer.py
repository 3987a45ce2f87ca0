"""Enters what an engine has read and embedded into the index, a transaction at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from clipguide.retrieval.catalog import Catalog
from clipguide.retrieval.engines import Done
from clipguide.retrieval.records import Stamp
from clipguide.retrieval.sources import Read, Unreadable
from clipguide.retrieval.stores import Store

AGAIN = Stamp(-1, 0, 0)
"""Of an item that failed for a passing reason: no file has it, so the next update tries again."""


class Writer:
    """Collects what was read and commits it.

    Args:
        catalog: of the index, open for writing.
        store: where its vectors go.
        stamps: path -> stamp of each item when the update began.
        commit_every: vectors that a killed process loses at most.
    """

    def __init__(
        self, catalog: Catalog, store: Store, stamps: Mapping[str, Stamp], commit_every: int
    ) -> None:
        self._catalog, self._store = catalog, store
        self._stamps, self._commit_every = stamps, commit_every
        self._ids = catalog.contents()
        self._flying: dict[str, None] = {}  # hashes that are embedded, not committed
        self._vectors: list[tuple[Read, Tensor]] = []
        self._items: list[tuple[str, Read]] = []
        self._bad: list[tuple[str, Stamp, str]] = []
        self.embedded = self.kept = 0

    def __contains__(self, hash_: str) -> bool:
        """Whether a content needs no embedding any more. Called from the readers."""
        return hash_ in self._ids or hash_ in self._flying

    def snapshot(self) -> frozenset[str]:
        """All hashes for which that is so."""
        return frozenset(self._ids) | frozenset(self._flying)

    def take(self, group: Iterable[Done]) -> None:
        """A group of items as an engine gives it."""
        for done in group:
            self._take(done)
            full = len(self._vectors) >= self._commit_every
            if full or len(self._items) >= 8 * self._commit_every:
                self.finish()

    def _take(self, done: Done) -> None:
        read = done.read
        if isinstance(read, Unreadable):
            stamp = self._stamps[done.path] if read.lasting else AGAIN
            self._bad.append((done.path, stamp, str(read)))
            return
        self._items.append((done.path, read))
        if done.vector is None:
            return
        if not bool(done.vector.isfinite().all()):
            text = "the model gives a vector with NaN or infinite values"
            raise ValueError(f"{done.path}: {text}, expected a unit vector")
        self.embedded += 1
        if read.hash not in self:
            self._flying[read.hash] = None
            self._vectors.append((read, done.vector))

    def finish(self) -> None:
        """Commit everything taken so far."""
        if self._vectors:
            reads = [read for read, _ in self._vectors]
            ids = self._store.commit(
                self._catalog, reads, torch.stack([vector for _, vector in self._vectors])
            )
            self._ids.update(zip((read.hash for read in reads), ids, strict=True))
        with self._catalog.transaction():
            for path, read in self._items:
                self._catalog.set_item(path, self._ids[read.hash], read.stamp)
            for path, stamp, reason in self._bad:
                self._catalog.set_bad(path, reason, stamp)
        self.kept += len(self._items)
        for waiting in (self._vectors, self._items, self._bad):
            waiting.clear()
        self._flying.clear()
