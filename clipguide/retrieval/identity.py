"""The manifest as the catalogue keeps it, under its checksum: what an index is, is read from there.

The file `manifest.json` is for people and for finding an index. It must be what the catalogue
says; the one before it is taken too, because the two are written one after the other.
"""

from __future__ import annotations

from pathlib import Path

from clipguide.retrieval.catalog import Catalog, open_catalog
from clipguide.retrieval.manifest import FILE, Manifest, decode, encode, located, read_manifest
from clipguide.retrieval.published import FILE as CATALOG
from clipguide.retrieval.published import WORK, IndexDamaged

NOW, BEFORE = "manifest", "manifest before"  # names of notes


def keep_manifest(catalog: Catalog, manifest: Manifest) -> None:
    """Enter a new or changed manifest, in a transaction of its own."""
    data = encode(manifest)
    before = catalog.note(NOW) if catalog.has_note(NOW) else data
    with catalog.transaction():
        catalog.set_note(NOW, data)
        catalog.set_note(BEFORE, before)


def kept_manifest(catalog: Catalog, folder: Path) -> Manifest | None:
    """What the catalogue says the index is; None in one that was never begun."""
    if not catalog.has_note(NOW):
        return None
    return decode(catalog.note(NOW), folder / FILE)


def checked_manifest(catalog: Catalog, folder: Path) -> Manifest:
    """What an index is, its root where it is now; `manifest.json` compared with the catalogue.

    Raises:
        IndexDamaged: the file is not the one that was written with this catalogue.
        ValueError: no index there.
    """
    found = encode(read_manifest(folder))
    kept = kept_manifest(catalog, folder)
    if kept is None or found not in (catalog.note(NOW), catalog.note(BEFORE)):
        text = "not as it was written, or of another index"
        raise IndexDamaged(f"{folder / FILE}: the manifest is damaged ({text}); index anew")
    return located(kept, folder)


def find_manifest(folder: Path) -> Manifest | None:
    """What the index in `folder` is, finished or not; None where there is none yet.

    Raises:
        IndexDamaged: the catalogue is missing or damaged.
    """
    if not any((folder / name).exists() for name in (FILE, CATALOG, WORK)):
        return None
    with open_catalog(folder) as catalog:
        return kept_manifest(catalog, folder)
