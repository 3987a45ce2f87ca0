"""Where an index keeps its vectors: in shards of our own or in LanceDB, under one catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.retrieval.catalog import Catalog
from clipguide.retrieval.manifest import Manifest
from clipguide.retrieval.records import Location
from clipguide.retrieval.shards import ROWS, compact, read_shard, remove_strays, write_shard
from clipguide.retrieval.sources import Read


class Store(Protocol):
    """The vectors of an index. The catalogue says which of them are alive."""

    def mend(self, catalog: Catalog) -> None:
        """Remove what a killed process left behind."""
        ...

    def commit(self, catalog: Catalog, reads: Sequence[Read], vectors: Tensor) -> list[int]:
        """Keep (N,D) vectors and enter their contents; returns the ids of the contents.

        The catalogue changes in one transaction, after the vectors are written: a process killed
        in between leaves vectors that nothing knows, never contents without a vector.
        """
        ...

    def tidy(self, catalog: Catalog) -> None:
        """Drop vectors of contents that are gone, and make search quick: the end of an update."""
        ...

    def rows(self, catalog: Catalog, locations: Sequence[Location]) -> Tensor:
        """(N,D) float32: these vectors. IndexDamaged: one is missing."""
        ...


class ShardStore:
    """Files of float16 vectors with checksums (see `clipguide.retrieval.shards`).

    Args:
        folder: of the index.
        embed_dim: D.
        shard_rows: vectors per file.
    """

    def __init__(self, folder: Path, embed_dim: int, shard_rows: int = ROWS) -> None:
        self._folder, self._embed_dim, self._shard_rows = folder, embed_dim, shard_rows

    def mend(self, catalog: Catalog) -> None:
        remove_strays(self._folder, catalog)

    def commit(self, catalog: Catalog, reads: Sequence[Read], vectors: Tensor) -> list[int]:
        ids: list[int] = []
        for part in slices(len(reads), self._shard_rows):
            name, digest = write_shard(self._folder, vectors[part])
            with catalog.transaction():
                shard = catalog.add_shard(name, len(reads[part]), digest)
                ids += [
                    catalog.add_content(read.hash, shard, row, read.details)
                    for row, read in enumerate(reads[part])
                ]
        return ids

    def tidy(self, catalog: Catalog) -> None:
        compact(self._folder, catalog, self._embed_dim, self._shard_rows)

    def rows(self, catalog: Catalog, locations: Sequence[Location]) -> Tensor:
        shards = {shard.id: shard for shard in catalog.shards()}
        wanted: dict[int, list[tuple[int, int]]] = {}
        for position, location in enumerate(locations):
            wanted.setdefault(location.shard, []).append((position, location.row))
        vectors = torch.empty(len(locations), self._embed_dim)
        for id_, pairs in wanted.items():
            positions, chosen = zip(*pairs, strict=True)
            part = read_shard(self._folder, shards[id_], self._embed_dim)[list(chosen)]
            vectors[list(positions)] = part.float()
        return vectors


def store_of(folder: Path, manifest: Manifest, shard_rows: int = ROWS) -> Store:
    """The store that a manifest names.

    Raises:
        ValueError: LanceDB is not installed, or its database cannot be opened.
    """
    if manifest.storage.kind == "shards":
        return ShardStore(folder, manifest.embed_dim, shard_rows)
    from clipguide.retrieval.lance import LanceStore

    return LanceStore(folder, manifest)
