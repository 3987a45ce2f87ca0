"""Whether an index is as it was written: every file, every checksum, every reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipguide.retrieval.calibration import read_calibration
from clipguide.retrieval.catalog import Catalog, open_catalog
from clipguide.retrieval.identity import checked_manifest
from clipguide.retrieval.manifest import Manifest, read_manifest
from clipguide.retrieval.published import IndexDamaged
from clipguide.retrieval.shards import read_shard

_UNEVEN = 2e-3  # float16 rounds each value of a unit vector by up to 1/2048 of it


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    detail: str


def check_index(folder: str | Path) -> list[Finding]:
    """Every check of an index, those that fail included.

    Cost: reads every file once; no model.

    Raises:
        ValueError: no index there, or a manifest that cannot be read at all.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        with open_catalog(folder) as catalog:
            manifest = checked_manifest(catalog, folder)
            text = f"{manifest.kind} of {manifest.root} by {manifest.scorer}"
            found = [Finding("manifest", True, text)]
            shards = manifest.storage.kind == "shards"
            checks = (_database, _references if shards else _items, _null)
            found += [_tried(check, catalog, manifest) for check in checks]
            vectors = _shards if shards else _lance
            found += vectors(folder, catalog, manifest)
            bad = catalog.bad()
    except IndexDamaged as error:
        return [Finding("manifest and catalogue", False, str(error))]
    return [*found, Finding("bad files", True, f"{len(bad)} could not be read")]


def _tried(
    check: Callable[[Catalog, Manifest], Finding], catalog: Catalog, manifest: Manifest
) -> Finding:
    try:
        return check(catalog, manifest)
    except IndexDamaged as error:
        return Finding(check.__name__.strip("_"), False, str(error))


def _database(catalog: Catalog, _manifest: Manifest) -> Finding:
    healthy = catalog.healthy()
    return Finding("database", healthy, "whole" if healthy else "corrupt: index anew")


def _references(catalog: Catalog, _manifest: Manifest) -> Finding:
    """Every item has a content, every content a row of its own in a shard."""
    rows = {shard.id: shard.rows for shard in catalog.shards()}
    locations = catalog.locations()
    lost = sum(not 0 <= location.row < rows.get(location.shard, 0) for location in locations)
    twice = len(locations) - len({(location.shard, location.row) for location in locations})
    items = catalog.items()
    loose = _loose(catalog)
    detail = f"{len(items)} items, {len(locations)} contents"
    if lost or twice or loose:
        detail += f"; {lost} without a vector, {twice} share one, {loose} items without content"
    return Finding("references", not (lost or twice or loose), detail)


def _items(catalog: Catalog, _manifest: Manifest) -> Finding:
    """Every item has a content."""
    loose = _loose(catalog)
    detail = f"{len(catalog.items())} items, {catalog.count()} contents"
    if loose:
        detail += f"; {loose} items without content"
    return Finding("references", not loose, detail)


def _loose(catalog: Catalog) -> int:
    known = set(catalog.contents().values())
    return sum(content not in known for content in catalog.items().values())


def _null(catalog: Catalog, manifest: Manifest) -> Finding:
    calibration = read_calibration(catalog, manifest.embed_dim)
    how = "the model's temperature"
    if calibration.fit is not None:
        how = f"a fit to {calibration.fit.pairs} pairs"
    return Finding("null", True, f"measured for {calibration.count} contents; slope by {how}")


def _shards(folder: Path, catalog: Catalog, manifest: Manifest) -> Iterator[Finding]:
    for shard in catalog.shards():
        try:
            vectors = read_shard(folder, shard, manifest.embed_dim).float()
        except IndexDamaged as error:
            yield Finding(f"shard {shard.id}", False, str(error))
            continue
        uneven = float((vectors.norm(dim=1) - 1).abs().max())
        unit = uneven < _UNEVEN
        detail = f"{shard.rows} vectors, checksum as written"
        yield Finding(f"shard {shard.id}", unit, detail if unit else f"lengths off by {uneven:.3g}")


def _lance(folder: Path, catalog: Catalog, manifest: Manifest) -> Iterator[Finding]:
    """Every content has one row, of length one."""
    from clipguide.retrieval.lance import LanceStore, read_version

    ids: list[int] = []
    uneven = 0.0
    try:
        store = LanceStore(folder, manifest, read_version(folder, manifest, catalog))
        for some, vectors in store.blocks():
            ids += some.tolist()
            uneven = max(uneven, float((vectors.norm(dim=1) - 1).abs().max()))
    except IndexDamaged as error:
        yield Finding("lancedb", False, str(error))
        return
    known = set(catalog.contents().values())
    lost, twice = len(known - set(ids)), len(ids) - len(set(ids))
    how = f"index {manifest.storage.quantisation}" if store.indexed else "no index yet: exact"
    detail = f"{len(ids)} vectors at {store.uri}, {how}"
    whole = not lost and not twice and uneven < _UNEVEN
    if not whole:
        detail += f"; {lost} contents without a vector, {twice} twice, lengths off by {uneven:.3g}"
    yield Finding("lancedb", whole, detail)
