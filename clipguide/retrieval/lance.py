"""Vectors in LanceDB: a table in a local folder or an object store, with a quantised IVF index.

Needs the extra `index`. The table has a row per content, its id and its float16 vector; paths and
metadata stay in the catalogue, so filters mean the same as with shards and are given to LanceDB as
the ids that may be found. The nearest rows that LanceDB's index finds are scored again exactly, as
`clipguide.retrieval.exact` does: cosines and probabilities are those of an exact search, only which
rows are found is approximate (how many of the right ones: `clipguide index check`).

IVF, and product or scalar quantisation: Jegou et al. 2011 (doi:10.1109/TPAMI.2010.57).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipguide.batching import batches
from clipguide.extras import need
from clipguide.files import sha256_file
from clipguide.retrieval.catalog import Catalog
from clipguide.retrieval.exact import Scored, search_rows
from clipguide.retrieval.manifest import Manifest
from clipguide.retrieval.published import IndexDamaged
from clipguide.retrieval.records import Location
from clipguide.retrieval.sources import Read

FOLDER = "lance"
FILES = "lance files"  # name of a note
_HINT = "latest_version_hint.json"  # only quickens finding the latest version
INDEX_FROM = 4096
"""Rows from which a table gets an index; fewer are quicker searched one by one."""
PROBED = 0.25
"""Share of the partitions that a search looks into. Texts lie far from all images: a text's
neighbours are spread over more cells than those of an image."""
REFINED = 20
"""Rows whose vectors are read for each that is asked for: those nearest by quantised distance."""
FEW = 20_000
"""Rows left by a filter that are searched one by one."""
_SUB_VECTOR = 8  # dimensions that a byte of a product-quantised vector stands for
_TRAINED_ON = 256  # rows for a partition: LanceDB makes fewer partitions than it is asked for
_IDS = 50_000  # ids in one condition


class LanceStore:
    """The table of an index: what `clipguide.retrieval.stores.Store` asks for, and search.

    Args:
        folder: of the index.
        manifest: says where the database is, the table's name and its quantisation.
        version: of the table, to read it as it was; by default as it is.
    """

    def __init__(self, folder: Path, manifest: Manifest, version: int | None = None) -> None:
        self._storage, self._embed_dim = manifest.storage, manifest.embed_dim
        lancedb = need("lancedb", "index")
        self._arrow = need("pyarrow", "index")
        uri = self._storage.uri or str(folder / FOLDER)
        try:
            self._database = lancedb.connect(uri)
            self._table = self._database.create_table(
                self._storage.table, schema=self._schema(), exist_ok=True
            )
            if version is not None:
                self._table.checkout(version)
        except (OSError, RuntimeError, ValueError) as error:
            raise IndexDamaged(f"{uri}: LanceDB cannot open it: {error}") from error
        self.uri = uri

    def _schema(self) -> Any:
        arrow = self._arrow
        vector = arrow.list_(arrow.float16(), self._embed_dim)
        return arrow.schema([("id", arrow.int64()), ("vector", vector)])

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def mend(self, catalog: Catalog) -> None:
        """Delete rows whose content the catalogue does not know."""
        known = set(catalog.contents().values())
        strays = [id_ for id_ in self.ids() if id_ not in known]
        for some in batches(strays, _IDS):
            self._table.delete(_among(some))

    def commit(self, catalog: Catalog, reads: Sequence[Read], vectors: Tensor) -> list[int]:
        first = catalog.next_id()
        ids = list(range(first, first + len(reads)))
        self._table.add(self._rows(ids, vectors))
        with catalog.transaction():
            for id_, read in zip(ids, reads, strict=True):
                catalog.add_content(read.hash, 0, 0, read.details, id_)
        return ids

    def _rows(self, ids: Sequence[int], vectors: Tensor) -> Any:
        arrow = self._arrow
        flat = vectors.detach().cpu().to(torch.float16).contiguous().numpy().reshape(-1)
        column = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), self._embed_dim)
        return arrow.table({"id": arrow.array(ids, arrow.int64()), "vector": column})

    def tidy(self, catalog: Catalog) -> None:
        """Drop dead rows, merge small files, bring the index up to date or make it.

        It is made anew when the table has twice the rows it was trained on.
        """
        self.mend(catalog)
        rows, trained = len(self), int(catalog.note("lance") if catalog.has_note("lance") else 0)
        if rows >= INDEX_FROM and not trained <= rows < 2 * trained:
            self._make_index(rows)
            with catalog.transaction():
                catalog.set_note("lance", str(rows).encode())
        self._table.optimize()
        kept = {"version": self._table.version, "files": _files(self.uri, self._storage.table)}
        with catalog.transaction():
            catalog.set_note(FILES, json.dumps(kept).encode())

    def _make_index(self, rows: int) -> None:
        options: dict[str, Any] = {"distance_type": "cosine", "num_partitions": partitions(rows)}
        if self._storage.quantisation == "ivf_pq":
            options["num_sub_vectors"] = max(1, self._embed_dim // _SUB_VECTOR)
        kinds = need("lancedb.index", "index")
        kind = {"ivf_pq": kinds.IvfPq, "ivf_sq": kinds.IvfSq}[self._storage.quantisation]
        self._table.create_index("vector", config=kind(**options), replace=True)

    @property
    def indexed(self) -> bool:
        """Whether there is an IVF index; without one every search is exact."""
        return bool(self._table.list_indices())

    def ids(self) -> list[int]:
        """Of every row."""
        return [id_ for block in self._blocks(["id"]) for id_ in block.column("id").to_pylist()]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(N,) ids and (N,D) float32 vectors of all rows, a block at a time."""
        for block in self._blocks(["id", "vector"]):
            yield self._tensors(block)

    def _blocks(self, columns: list[str]) -> Iterator[Any]:
        try:
            yield from self._table.search().select(columns).limit(max(len(self), 1)).to_batches()
        except (OSError, RuntimeError, ValueError) as error:
            raise IndexDamaged(f"{self.uri}: LanceDB cannot read it: {error}") from error

    def _tensors(self, block: Any) -> tuple[Tensor, Tensor]:
        ids = torch.tensor(block.column("id").to_pylist(), dtype=torch.int64)
        column = block.column("vector")
        chunks = column.chunks if hasattr(column, "chunks") else [column]
        flat = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
        values = np.concatenate([np.empty(0, np.float16), *flat]).astype(np.float32)
        return ids, torch.from_numpy(values).reshape(len(ids), self._embed_dim)

    def rows(self, catalog: Catalog, locations: Sequence[Location]) -> Tensor:
        position = {location.content: number for number, location in enumerate(locations)}
        vectors = torch.empty(len(locations), self._embed_dim)
        left = set(position)
        for ids, values in self.blocks():
            wanted = [row for row, id_ in enumerate(ids.tolist()) if id_ in left]
            found = [int(ids[row]) for row in wanted]
            vectors[[position[id_] for id_ in found]] = values[wanted]
            left.difference_update(found)
        if left:
            raise IndexDamaged(f"{self.uri}: {len(left)} vectors are missing; index anew")
        return vectors

    def nearest(
        self, queries: Tensor, top_k: int, kept: set[int] | None, known: int
    ) -> list[list[Scored]]:
        """Products and ids of the rows nearest to each query that the index finds; ties by id.

        Args:
            queries: (Q,D) unit vectors, on the CPU.
            top_k: how many.
            kept: ids that may be found; None: all.
            known: rows that the catalogue knows; a kill may have left more in the table, so as many
                more are asked for.
        """
        rows = len(self)
        if not rows or (kept is not None and not kept):
            return [[] for _ in queries]
        count = top_k + max(0, rows - known)
        most = min(count, rows if kept is None else len(kept))
        few = kept is not None and len(kept) <= FEW
        flat = few or not self.indexed
        probes = max(math.ceil(PROBED * partitions(rows)), 8)
        allowed = None if kept is None else self._allowed(kept, rows)
        found: list[list[Scored]] = []
        for query in queries:
            ids, vectors = self._ask(query, count, allowed, 0 if flat else probes)
            if len(ids) < most and not flat:  # the cells looked into hold too few
                ids, vectors = self._ask(query, count, allowed, 0)
            found += search_rows(vectors, ids, query[None], count)
        return found

    def _ask(
        self, query: Tensor, count: int, allowed: str | None, probes: int
    ) -> tuple[Tensor, Tensor]:
        """Ids and vectors of `count` rows; without `probes` all rows are compared."""
        asked = self._table.search(query.float().numpy(), vector_column_name="vector")
        asked = asked.distance_type("cosine").select(["id", "vector", "_distance"]).limit(count)
        if allowed is not None:
            asked = asked.where(allowed, prefilter=True)
        if probes:
            asked = asked.nprobes(probes).refine_factor(REFINED)
        else:
            asked = asked.bypass_vector_index()
        try:
            return self._tensors(asked.to_arrow())
        except (OSError, RuntimeError, ValueError) as error:
            raise IndexDamaged(f"{self.uri}: LanceDB cannot search it: {error}") from error

    def _allowed(self, kept: set[int], rows: int) -> str:
        """The shorter of two conditions: among these, or not among the others."""
        if 2 * len(kept) <= rows:
            return _among(sorted(kept))
        others = [id_ for id_ in self.ids() if id_ not in kept]
        return f"NOT ({_among(others)})" if others else "id >= 0"


def partitions(rows: int) -> int:
    """Cells of a table's IVF index: the square root of its rows, each trained on 256 or more."""
    return max(1, min(round(math.sqrt(rows)), rows // _TRAINED_ON))


def _among(ids: Iterable[int]) -> str:
    return f"id IN ({', '.join(map(str, ids))})"


def read_version(folder: Path, manifest: Manifest, catalog: Catalog) -> int:
    """The version of the table that the catalogue was published with, its files compared.

    LanceDB never changes a file, so those of that version are there however often it was updated.
    An object store compares its own files; there they are not read.

    Cost: a hash of every local file of the table.

    Raises:
        IndexDamaged: a file is missing or not as it was written.
    """
    kept = json.loads(catalog.note(FILES))
    place = _place(manifest.storage.uri or str(folder / FOLDER), manifest.storage.table)
    for name, digest in kept["files"].items():
        file = place / name
        if not file.is_file() or sha256_file(file) != digest:
            raise IndexDamaged(f"{file}: missing or not as it was written; index anew")
    return int(kept["version"])


def _place(uri: str, table: str) -> Path:
    return Path(uri) / f"{table}.lance"


def _files(uri: str, table: str) -> dict[str, str]:
    """Name -> SHA-256 of every local file of a table, but for the one that LanceDB overwrites."""
    if "://" in uri:
        return {}
    place = _place(uri, table)
    found = sorted(f for f in place.rglob("*") if f.is_file() and f.name != _HINT)
    return {file.relative_to(place).as_posix(): sha256_file(file) for file in found}
