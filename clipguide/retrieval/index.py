"""An index opened for reading: search by vectors, with filters and probabilities."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.retrieval.calibration import Calibration, read_calibration
from clipguide.retrieval.catalog import Catalog, read_catalog, told_as_damage
from clipguide.retrieval.exact import Scored, best, search_rows
from clipguide.retrieval.filters import Filter, condition
from clipguide.retrieval.identity import checked_manifest
from clipguide.retrieval.manifest import Manifest, read_manifest
from clipguide.retrieval.published import FILE as CATALOG
from clipguide.retrieval.published import WORK, IndexDamaged
from clipguide.retrieval.shards import read_shard

if TYPE_CHECKING:
    from clipguide.retrieval.lance import LanceStore


@dataclass(frozen=True)
class Hit:
    """One item found.

    Attributes:
        path: below the index's root; a caption's is its image's name, "#" and a number.
        cosine: with the query; vectors are float16, so good to three decimals.
        probability: that it matches (see `clipguide.retrieval.calibration`).
        id: of its content; ties are in its order, then by path.
        details: bytes, mtime_ns, width, height, prompt, negative, seed, score, text (or None).
    """

    path: str
    cosine: float
    probability: float
    id: int
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class OpenShard:
    """The vectors of one shard that are alive."""

    vectors: Tensor  # (N,D), on the index's device: float16 on the CPU, float32 elsewhere
    ids: Tensor  # (N,) int64, on the CPU


class Index:
    """An index as it was when it was opened. Make one with `open_index`.

    Attributes:
        folder: where it is.
        manifest: what it is of.
        shards: its vectors, in memory.
        calibration: from cosines to probabilities.
        catalog: what its items are, of the same moment: an update does not change it.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        shards: Sequence[OpenShard],
        calibration: Calibration,
        catalog: Catalog,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.shards = shards
        self.calibration = calibration
        self.catalog = catalog
        weakref.finalize(self, catalog.close)

    def __len__(self) -> int:
        return sum(len(shard.ids) for shard in self.shards)

    def search(
        self,
        queries: Tensor,
        top_k: int = 10,
        *,
        where: Sequence[Filter] = (),
        min_p: float = 0.0,
        scorer: Scorer | None = None,
    ) -> list[list[Hit]]:
        """The nearest items of each query, nearest first, ties by id and path.

        Exact, but for an index in LanceDB that was not opened with `exact=True`.

        Args:
            queries: (Q,D) or (D,) unit vectors of the index's own model.
            top_k: hits per query; files of one content are a hit each.
            where: only items for which all of these are true.
            min_p: only hits with at least this probability; the list may be empty.
            scorer: what made the queries; refused if it is not the index's model.

        Cost: N * D multiplications a query.

        Raises:
            ValueError: `top_k` below 1, `min_p` outside [0, 1], vectors of another length or not
                finite; `WrongModel`; `IndexDamaged`.
        """
        if scorer is not None:
            self.manifest.check(scorer)
        queries = self._checked(queries, top_k, min_p)
        sql, values = condition(where)
        with told_as_damage(self.folder):
            kept = self.catalog.matching(sql, values) if where else None
            found = self.nearest(queries, top_k, kept)
            answers: list[list[Hit]] = []
            for query, scored in zip(queries, found, strict=True):
                chances = self.calibration.probabilities([dot for dot, _ in scored], query)
                hits = [
                    Hit(path, dot, chance, id_, details)
                    for (dot, id_), chance in zip(scored, chances, strict=True)
                    if chance >= min_p
                    for path, details in self.catalog.holders(id_, sql, values)
                ]
                answers.append(hits[:top_k])
        return answers

    def nearest(
        self, queries: Tensor, top_k: int, kept: set[int] | None = None
    ) -> list[list[Scored]]:
        """Dot products and ids of the contents nearest to each query; those of `kept` only."""
        merged: list[list[Scored]] = [[] for _ in queries]
        for shard in self.shards:
            mask = None
            if kept is not None:
                mask = torch.tensor([id_ in kept for id_ in shard.ids.tolist()], dtype=torch.bool)
            found = search_rows(shard.vectors, shard.ids, queries, top_k, mask)
            merged = [best(top_k, a + b) for a, b in zip(merged, found, strict=True)]
        return merged

    def _checked(self, queries: Tensor, top_k: int, min_p: float) -> Tensor:
        queries = queries.detach().cpu().float()
        queries = queries[None] if queries.ndim == 1 else queries
        expected = self.manifest.embed_dim
        if queries.ndim != 2 or queries.shape[1] != expected:
            raise ValueError(
                f"got queries of shape {tuple(queries.shape)}, expected (Q, {expected})"
            )
        if not bool(queries.isfinite().all()):
            raise ValueError("got a query with NaN or infinite values, expected a unit vector")
        if top_k < 1:
            raise ValueError(f"got top_k {top_k}, expected 1 or more")
        if not 0 <= min_p <= 1:
            raise ValueError(f"got min_p {min_p}, expected a probability in [0, 1]")
        return queries


class ApproximateIndex(Index):
    """An index in LanceDB: the same answers, but for hits that its quantised index misses.

    Its vectors stay in the database: `shards` is empty. `open_index(..., exact=True)` reads them.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        calibration: Calibration,
        store: LanceStore,
        catalog: Catalog,
    ) -> None:
        super().__init__(folder, manifest, (), calibration, catalog)
        self.store = store

    def __len__(self) -> int:
        return self.calibration.count

    def nearest(
        self, queries: Tensor, top_k: int, kept: set[int] | None = None
    ) -> list[list[Scored]]:
        """As `Index.nearest`, of the rows that the database finds."""
        count = self.catalog.count()
        found = self.store.nearest(queries.cpu(), top_k, kept, count)
        known = self.catalog.known({id_ for some in found for _, id_ in some})
        return [[pair for pair in some if pair[1] in known][:top_k] for some in found]


def open_index(
    folder: str | Path, device: str | torch.device = "cpu", *, exact: bool = False
) -> Index:
    """Read an index into memory: every file fully, its checksum compared.

    An index in LanceDB is searched where it is, approximately; its local files are compared too.
    What is open stays as it is while another process updates the index.

    Cost: a hash of all files, 0.15 s for 100 MB (100,000 images of 512 dimensions).

    Args:
        folder: where it is.
        device: where to search.
        exact: read the vectors of an index in LanceDB too, and search them exactly.

    Raises:
        ValueError: no index there, or damaged (`IndexDamaged` names the file); LanceDB is needed
            and not installed.

    Example:
        >>> open_index("photos.index").search(scorer.encode_text("a dog"), top_k=3)
    """
    folder = Path(folder)
    read_manifest(folder)
    while True:
        before = _published(folder)
        try:
            return _open(folder, device, exact)
        except IndexDamaged:
            if _published(folder) == before:
                raise
            # an update ended meanwhile, and removed what only the index before it needed


def _published(folder: Path) -> tuple[int, int]:
    """Which file an update published last."""
    try:
        status = (folder / CATALOG).stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def _open(folder: Path, device: str | torch.device, exact: bool) -> Index:
    if (folder / WORK).exists() and not (folder / CATALOG).exists():
        text = "the index is not finished: `clipguide index` again goes on with it"
        raise IndexDamaged(f"{folder}: {text}")
    catalog = read_catalog(folder)
    try:
        with told_as_damage(folder / CATALOG):
            return _opened(folder, catalog, device, exact)
    except BaseException:
        catalog.close()
        raise


def _opened(folder: Path, catalog: Catalog, device: str | torch.device, exact: bool) -> Index:
    manifest = checked_manifest(catalog, folder)
    calibration = read_calibration(catalog, manifest.embed_dim)
    if manifest.storage.kind == "shards":
        shards = _read_shards(folder, catalog, manifest.embed_dim, device)
        return Index(folder, manifest, shards, calibration, catalog)
    from clipguide.retrieval.lance import LanceStore, read_version

    store = LanceStore(folder, manifest, read_version(folder, manifest, catalog))
    if not exact:
        return ApproximateIndex(folder, manifest, calibration, store, catalog)
    known = torch.tensor(sorted(catalog.contents().values()), dtype=torch.int64)
    blocks = [_living(ids, vectors, known, device) for ids, vectors in store.blocks()]
    living = [block for block in blocks if len(block.ids)]
    return Index(folder, manifest, living, calibration, catalog)


def _read_shards(
    folder: Path, catalog: Catalog, embed_dim: int, device: str | torch.device
) -> list[OpenShard]:
    living: dict[int, tuple[list[int], list[int]]] = {}
    for location in catalog.locations():
        rows, ids = living.setdefault(location.shard, ([], []))
        rows.append(location.row)
        ids.append(location.content)
    shards: list[OpenShard] = []
    for shard in catalog.shards():
        if shard.id in living:
            rows, ids = living[shard.id]
            vectors = read_shard(folder, shard, embed_dim)
            if rows != list(range(shard.rows)):
                vectors = vectors[rows]
            shards.append(OpenShard(_placed(vectors, device), torch.tensor(ids)))
    return shards


def _placed(vectors: Tensor, device: str | torch.device) -> Tensor:
    """On the CPU half the bytes are half the time; elsewhere they are converted once."""
    if torch.device(device).type == "cpu":
        return vectors.half()
    return vectors.to(device).float()


def _living(ids: Tensor, vectors: Tensor, known: Tensor, device: str | torch.device) -> OpenShard:
    alive = torch.isin(ids, known)
    return OpenShard(_placed(vectors[alive], device), ids[alive])
