"""Bring an index up to date: embed what is new, drop what is gone, leave the rest alone."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.retrieval.calibration import (
    NUMBERS,
    SAMPLE,
    Calibration,
    measure_null,
    read_calibration,
    write_calibration,
)
from clipguide.retrieval.catalog import Catalog, Stamp, open_catalog, writer_lock
from clipguide.retrieval.manifest import (
    FILE,
    Manifest,
    manifest_of,
    read_manifest,
    write_manifest,
)
from clipguide.retrieval.shards import ROWS, compact, read_shard, remove_strays, write_shard
from clipguide.retrieval.sources import Read, Source, Unreadable

Progress = Callable[[int, int], None]
"""(items done, items to do)."""

READERS = 2
"""Threads that read and decode while the model embeds."""
BATCH_SIZE = 32
COMMIT_EVERY = 512
"""Vectors that a killed process loses at most."""


@dataclass(frozen=True)
class UpdateReport:
    """What an update did, in items; `embedded` counts passes through the model.

    A file whose content was known under another name that is gone now is `renamed`; one more of a
    known content is `added` and not embedded. `bad` are all bad files: path -> reason.
    """

    items: int
    added: int
    changed: int
    renamed: int
    removed: int
    unchanged: int
    embedded: int
    bad: Mapping[str, str]
    seconds: float


def update_index(
    folder: str | Path,
    source: Source,
    scorer: Scorer,
    *,
    batch_size: int = BATCH_SIZE,
    shard_rows: int = ROWS,
    readers: int = READERS,
    progress: Progress | None = None,
) -> UpdateReport:
    """Make the index in `folder`, or bring it up to date with `source`.

    Files whose size and times are unchanged are not opened; others are hashed, and only contents
    never seen are embedded. Work is committed every `COMMIT_EVERY` vectors: a process killed at any
    moment leaves a whole index, and the next update goes on from there. Bad files are listed and
    tried again when they change.

    Args:
        folder: of the index; made if missing.
        source: what is indexed.
        scorer: the model; an index keeps to the one it was made with.
        batch_size: images that go through the model at once.
        shard_rows: vectors per file.
        readers: threads that read and decode.
        progress: called after every batch.

    Cost: one image pass (or text pass) per new content.

    Raises:
        ValueError: `WrongModel`; an index of another kind; nothing found to index; another process
            is updating; a damaged index (`IndexDamaged`).

    Example:
        >>> update_index("photos.index", ImageFolder(Path("photos")), load_scorer("starter"))
    """
    if min(batch_size, shard_rows, readers) < 1:
        got = f"batch_size {batch_size}, shard_rows {shard_rows}, readers {readers}"
        raise ValueError(f"got {got}, expected 1 or more")
    started = time.perf_counter()
    folder = Path(folder)
    found = source.scan()
    if not found:  # an unmounted disk must not empty an index
        raise ValueError(f"{source.root}: nothing to index there")
    folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder), open_catalog(folder, write=True) as catalog:
        manifest = _manifest(folder, source, scorer)
        remove_strays(folder, catalog)
        before = catalog.items()
        todo = _outdated(catalog, found)
        writer = _Writer(folder, catalog, source, scorer, batch_size, min(COMMIT_EVERY, shard_rows))
        for done, (path, read) in enumerate(_read_all(source, todo, writer.knows, scorer, readers)):
            writer.take(path, found[path], read)
            if progress and (done + 1) % batch_size == 0:
                progress(done + 1, len(todo))
        writer.finish()
        with catalog.transaction():
            catalog.remove([path for path in {*before, *catalog.bad()} if path not in found])
            catalog.remove_orphans()
        compact(folder, catalog, manifest.embed_dim, shard_rows)
        renew_calibration(folder, catalog, manifest.embed_dim, scorer.logit_scale)
        changes = _compare(before, catalog.items())
        bad = {path: reason for path, (reason, _) in catalog.bad().items()}
    seconds = time.perf_counter() - started
    return UpdateReport(**changes, embedded=writer.embedded, bad=bad, seconds=seconds)


def renew_calibration(
    folder: Path, catalog: Catalog, embed_dim: int, temperature: float
) -> Calibration:
    """Measure the null distribution again, after a change; what was fitted stays.

    Cost: reads all shards; no model.
    """
    places = catalog.sample(SAMPLE)
    shards = {shard.id: shard for shard in catalog.shards()}
    rows: dict[int, list[tuple[int, int]]] = {}
    for position, place in enumerate(places):
        rows.setdefault(place.shard, []).append((position, place.row))
    vectors = torch.empty(len(places), embed_dim)
    for id_, pairs in rows.items():
        positions, chosen = zip(*pairs, strict=True)
        vectors[list(positions)] = read_shard(folder, shards[id_], embed_dim)[list(chosen)].float()
    mean, covariance = measure_null(vectors)
    fit = read_calibration(catalog, embed_dim).fit if catalog.has_note(NUMBERS) else None
    calibration = Calibration(mean, covariance, catalog.count(), temperature, fit)
    with catalog.transaction():
        write_calibration(catalog, calibration)
    return calibration


def _manifest(folder: Path, source: Source, scorer: Scorer) -> Manifest:
    """The index's manifest, written if it is new; its root follows a folder that was moved."""
    if not (folder / FILE).exists():
        manifest = manifest_of(scorer, source.kind, source.root)
        write_manifest(folder, manifest)
        return manifest
    manifest = read_manifest(folder)
    if manifest.kind != source.kind:
        raise ValueError(f"{folder}: an index of {manifest.kind}, got {source.kind}")
    manifest.check(scorer)
    if manifest.root != (root := str(source.root.resolve())):
        manifest = replace(manifest, root=root)
        write_manifest(folder, manifest)
    return manifest


def _outdated(catalog: Catalog, found: Mapping[str, Stamp]) -> list[str]:
    """What is new or changed, bad files that did not change left out."""
    stamps = catalog.stamps() | {path: stamp for path, (_, stamp) in catalog.bad().items()}
    return [path for path, stamp in found.items() if stamps.get(path) != stamp]


def _read_all(
    source: Source,
    paths: list[str],
    known: Callable[[str], bool],
    scorer: Scorer,
    readers: int,
) -> Iterator[tuple[str, Read | Unreadable]]:
    """Every path and what was read, in order, a bounded number ahead of the consumer."""

    def read(path: str) -> Read | Unreadable:
        try:
            return source.read(path, known, scorer.preprocess)
        except Unreadable as error:
            return error

    ahead: deque[tuple[str, Future[Read | Unreadable]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        for path in paths:
            ahead.append((path, pool.submit(read, path)))
            if len(ahead) > 2 * BATCH_SIZE:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()


class _Writer:
    """Collects what was read, embeds it in batches, and commits it in transactions."""

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        source: Source,
        scorer: Scorer,
        batch_size: int,
        commit_every: int,
    ) -> None:
        self._folder, self._catalog = folder, catalog
        self._source, self._scorer = source, scorer
        self._batch_size, self._commit_every = batch_size, commit_every
        self._ids = catalog.contents()
        self._flying: dict[str, None] = {}  # hashes that are embedded or will be, not committed
        self._batch: list[Read] = []
        self._vectors: list[tuple[Read, Tensor]] = []
        self._items: list[tuple[str, Read]] = []
        self._bad: list[tuple[str, Stamp, str]] = []
        self.embedded = 0

    def knows(self, hash_: str) -> bool:
        """Whether a content needs no embedding any more. Called from the readers."""
        return hash_ in self._ids or hash_ in self._flying

    def take(self, path: str, stamp: Stamp, read: Read | Unreadable) -> None:
        """One item as it was read."""
        if isinstance(read, Unreadable):
            self._bad.append((path, stamp, str(read)))
            return
        self._items.append((path, read))
        if read.payload is not None and not self.knows(read.hash):
            self._flying[read.hash] = None
            self._batch.append(read)
        if len(self._batch) == self._batch_size:
            self._embed()
        if len(self._vectors) >= self._commit_every or len(self._items) >= 8 * self._commit_every:
            self.finish()

    def finish(self) -> None:
        """Embed and commit everything taken so far."""
        self._embed()
        for start in range(0, len(self._vectors), self._commit_every):
            self._commit(self._vectors[start : start + self._commit_every])
        with self._catalog.transaction():
            for path, read in self._items:
                if read.hash in self._ids:
                    self._catalog.set_item(path, self._ids[read.hash], read.stamp)
                else:
                    reason = "the model gives a vector that is not finite"
                    self._catalog.set_bad(path, reason, read.stamp)
            for path, stamp, reason in self._bad:
                self._catalog.set_bad(path, reason, stamp)
        for waiting in (self._vectors, self._items, self._bad):
            waiting.clear()
        self._flying.clear()

    def _embed(self) -> None:
        if not self._batch:
            return
        payloads = [read.payload for read in self._batch if read.payload is not None]
        vectors = self._source.embed(payloads, self._scorer).cpu()  # (B,D)
        good: list[bool] = vectors.isfinite().all(dim=1).tolist()
        pairs = zip(self._batch, vectors, good, strict=True)
        self._vectors += [(read, vector) for read, vector, finite in pairs if finite]
        self.embedded += len(self._batch)
        self._batch.clear()

    def _commit(self, vectors: list[tuple[Read, Tensor]]) -> None:
        """Enter a shard and its contents, in one transaction."""
        stacked = torch.stack([vector for _, vector in vectors])
        name, digest = write_shard(self._folder, stacked)
        with self._catalog.transaction():
            shard = self._catalog.add_shard(name, len(vectors), digest)
            for row, (read, _) in enumerate(vectors):
                id_ = self._catalog.add_content(read.hash, shard, row, read.details)
                self._ids[read.hash] = id_


def _compare(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """The counts of an `UpdateReport`."""
    gone = Counter(content for path, content in before.items() if path not in after)
    new = Counter(content for path, content in after.items() if path not in before)
    renamed = (gone & new).total()
    both = [path for path in after if path in before]
    changed = sum(before[path] != after[path] for path in both)
    return {
        "items": len(after),
        "added": new.total() - renamed,
        "changed": changed,
        "renamed": renamed,
        "removed": gone.total() - renamed,
        "unchanged": len(both) - changed,
    }
