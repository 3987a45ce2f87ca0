"""Bring an index up to date: embed what is new, drop what is gone, leave the rest alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from clipguide.clip.scorer import Scorer
from clipguide.retrieval.calibration import (
    NUMBERS,
    SAMPLE,
    Calibration,
    measure_null,
    read_calibration,
    write_calibration,
)
from clipguide.retrieval.catalog import Catalog, change_catalog, open_catalog, writer_lock
from clipguide.retrieval.engines import BATCH_SIZE, READERS, Embedder, Engine, embed_here
from clipguide.retrieval.identity import keep_manifest, kept_manifest
from clipguide.retrieval.manifest import (
    FILE,
    Manifest,
    Storage,
    manifest_of,
    root_names,
    write_manifest,
)
from clipguide.retrieval.published import IndexDamaged
from clipguide.retrieval.records import Stamp
from clipguide.retrieval.shards import ROWS
from clipguide.retrieval.sources import Source
from clipguide.retrieval.stores import Store, store_of
from clipguide.retrieval.writer import Writer

Progress = Callable[[int, int], None]
"""(items done, items to do)."""

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
    storage: Storage | None = None,
    engine: Engine = embed_here,
    batch_size: int = BATCH_SIZE,
    shard_rows: int = ROWS,
    readers: int = READERS,
    progress: Progress | None = None,
) -> UpdateReport:
    """Make the index in `folder`, or bring it up to date with `source`.

    Files whose size and times are unchanged are not opened; others are hashed, and only contents
    never seen are embedded. Work is kept every `COMMIT_EVERY` vectors, and put in the place of what
    searches read when all is done: a process killed at any moment leaves the index as it was, and
    the next update goes on from there. Bad files are listed and tried again when they change; what
    failed because memory or the disk did is tried again each time.

    Args:
        folder: of the index; made if missing.
        source: what is indexed.
        scorer: the model; an index keeps to the one it was made with.
        storage: where the vectors go; by default where they are, in shards for a new index.
        engine: what reads and embeds; `clipguide.retrieval.ray_engine.embed_on_ray` spreads it.
        batch_size: images that go through the model at once.
        shard_rows: vectors per file.
        readers: threads that read and decode.
        progress: called after every batch.

    Cost: one image pass (or text pass) per new content.

    Raises:
        ValueError: `WrongModel`; an index of another kind or storage; nothing found to index;
            another process is updating; a damaged index (`IndexDamaged`); an extra is missing; a
            vector that is not finite (its image is named).
        OSError: the disk is full. What was kept is whole.
        KeyboardInterrupt: with what is kept as its text.

    Example:
        >>> from clipguide.retrieval.sources import ImageFolder
        >>> update_index("photos.index", ImageFolder(Path("photos")), scorer).bad
        {}
    """
    if min(batch_size, shard_rows, readers) < 1:
        got = f"batch_size {batch_size}, shard_rows {shard_rows}, readers {readers}"
        raise ValueError(f"got {got}, expected 1 or more")
    started = time.perf_counter()
    embedder = Embedder(source, scorer, batch_size, readers)
    folder = Path(folder)
    found = source.scan()
    if not found:  # an unmounted disk must not empty an index
        raise ValueError(f"{source.root}: nothing to index there")
    folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder):
        with change_catalog(folder) as catalog:
            manifest = _manifest(catalog, folder, source, scorer, storage)
            store = store_of(folder, manifest, shard_rows)
            store.mend(catalog)
            before = catalog.items()
            todo = _outdated(catalog, found)
            writer = Writer(catalog, store, found, min(COMMIT_EVERY, shard_rows))
            with _interrupt_says_what_is_kept(writer, len(todo)):
                done = 0
                for group in engine(embedder, todo, writer):
                    writer.take(group)
                    done += len(group)
                    if progress:
                        progress(done, len(todo))
                writer.finish()
                with catalog.transaction():
                    catalog.remove([p for p in {*before, *catalog.bad()} if p not in found])
                    catalog.remove_orphans()
                store.tidy(catalog)
                renew_calibration(catalog, store, scorer)
            changes = _compare(before, catalog.items())
            bad = {path: reason for path, (reason, _) in catalog.bad().items()}
        write_manifest(folder, manifest)
        with open_catalog(folder) as catalog:
            store.mend(catalog)  # files that only the index before this update needed
    seconds = time.perf_counter() - started
    return UpdateReport(**changes, embedded=writer.embedded, bad=bad, seconds=seconds)


@contextmanager
def _interrupt_says_what_is_kept(writer: Writer, todo: int) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        kept = f"{writer.kept} of {todo} new or changed items are kept"
        raise KeyboardInterrupt(f"{kept}; the same command goes on from there") from error


def renew_calibration(catalog: Catalog, store: Store, scorer: Scorer) -> Calibration:
    """Measure the null distribution again, after a change; what was fitted stays.

    Cost: reads all vectors; no model.
    """
    mean, covariance = measure_null(store.rows(catalog, catalog.sample(SAMPLE)))
    fit = read_calibration(catalog, scorer.embed_dim).fit if catalog.has_note(NUMBERS) else None
    calibration = Calibration(mean, covariance, catalog.count(), scorer.logit_scale, fit)
    with catalog.transaction():
        write_calibration(catalog, calibration)
    return calibration


def _manifest(
    catalog: Catalog, folder: Path, source: Source, scorer: Scorer, storage: Storage | None
) -> Manifest:
    """The index's manifest, entered if it is new; its root follows a folder that was moved."""
    known = kept_manifest(catalog, folder)
    if known is None:
        if (folder / FILE).exists():
            raise IndexDamaged(f"{folder}: a manifest without its catalogue; index anew elsewhere")
        manifest = manifest_of(scorer, source.kind, source.root, folder, storage)
        store_of(folder, manifest)  # what is missing for it is said before anything is written
        keep_manifest(catalog, manifest)
        write_manifest(folder, manifest)
        return manifest
    if known.kind != source.kind:
        raise ValueError(f"{folder}: an index of {known.kind}, got {source.kind}")
    known.check(scorer)
    if storage and replace(storage, table=known.storage.table) != known.storage:
        was = f"{folder}: an index in {known.storage}"
        raise ValueError(f"{was}, got {storage}: index anew elsewhere")
    root, relative = root_names(source.root, folder)
    manifest = replace(known, root=root, relative=relative)
    if manifest != known:
        keep_manifest(catalog, manifest)
    return manifest


def _outdated(catalog: Catalog, found: Mapping[str, Stamp]) -> list[str]:
    """What is new or changed, bad files that did not change left out."""
    stamps = catalog.stamps() | {path: stamp for path, (_, stamp) in catalog.bad().items()}
    return [path for path, stamp in found.items() if stamps.get(path) != stamp]


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
