"""Files of vectors: float16 in safetensors, written whole, read whole, checked by SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clipguide.batching import slices
from clipguide.files import write_bytes
from clipguide.retrieval.catalog import Catalog, open_catalog
from clipguide.retrieval.published import FILE as CATALOG
from clipguide.retrieval.published import IndexDamaged
from clipguide.retrieval.records import Location, Shard

FOLDER = "shards"
KEY = "vectors"
ROWS = 65_536
"""Vectors of a full shard: 64 MiB at 512 dimensions."""
SMALL = 8
"""Shards less than half full that may stand before they are merged: a merge rewrites their rows."""


def write_shard(folder: Path, vectors: Tensor) -> tuple[str, str]:
    """Write (N,D) unit vectors as float16 to a new file; returns its name and SHA-256."""
    data = save({KEY: vectors.detach().cpu().to(torch.float16).contiguous()})
    name = f"{secrets.token_hex(8)}.safetensors"
    write_bytes(folder / FOLDER / name, data)
    return name, hashlib.sha256(data).hexdigest()


def read_shard(folder: Path, shard: Shard, embed_dim: int) -> Tensor:
    """The (N,D) float16 vectors of a shard.

    Raises:
        IndexDamaged: missing, other bytes than were written, or of another shape.
    """
    file = folder / FOLDER / shard.file
    try:
        data = file.read_bytes()
    except OSError as error:
        raise IndexDamaged(f"{file}: {error.strerror}; the shard is lost, index anew") from error
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise IndexDamaged(f"{file}: the checksum is wrong, the shard is corrupt; index anew")
    try:
        vectors = load(data)[KEY]
    except (SafetensorError, KeyError, ValueError) as error:
        raise IndexDamaged(f"{file}: not a shard ({error}); index anew") from error
    if vectors.shape != (shard.rows, embed_dim):
        expected = f"expected {(shard.rows, embed_dim)}"
        raise IndexDamaged(f"{file}: got shape {tuple(vectors.shape)}, {expected}; index anew")
    return vectors


def remove_strays(folder: Path, catalog: Catalog) -> None:
    """Delete shard files that neither this catalogue nor the published one knows."""
    known = {shard.file for shard in catalog.shards()}
    if (folder / CATALOG).exists():
        with open_catalog(folder) as published:
            known |= {shard.file for shard in published.shards()}
    for file in (folder / FOLDER).glob("*"):
        if file.name not in known:
            file.unlink(missing_ok=True)


def compact(folder: Path, catalog: Catalog, embed_dim: int, rows: int = ROWS) -> None:
    """Merge small and half-empty shards once there are more than `SMALL` of them.

    Empty ones go at once, the others stay as they are, so that a small change of a large index
    writes little. The catalogue changes in one transaction; old files go when it is published.
    """
    shards = {shard.id: shard for shard in catalog.shards()}
    living: dict[int, list[Location]] = {id_: [] for id_ in shards}
    for location in catalog.locations():
        living[location.shard].append(location)
    merged = [shard for id_, shard in shards.items() if _is_small(len(living[id_]), shard, rows)]
    if len(merged) <= SMALL:
        merged = [shard for shard in merged if not living[shard.id]]
    locations = [location for shard in merged for location in living[shard.id]]
    parts = [_living_rows(folder, shard, living[shard.id], embed_dim) for shard in merged]
    vectors = torch.cat(parts) if parts else torch.empty(0, embed_dim)  # (N, D)
    written = [
        (locations[part], *write_shard(folder, vectors[part]))
        for part in slices(len(locations), rows)
    ]
    with catalog.transaction():
        for group, name, digest in written:
            shard = catalog.add_shard(name, len(group), digest)
            catalog.move(
                Location(location.content, shard, row) for row, location in enumerate(group)
            )
        catalog.remove_shards(shard.id for shard in merged)


def _is_small(living: int, shard: Shard, rows: int) -> bool:
    return living < rows / 2 or living < shard.rows / 2


def _living_rows(folder: Path, shard: Shard, locations: list[Location], embed_dim: int) -> Tensor:
    if not locations:
        return torch.empty(0, embed_dim, dtype=torch.float16)
    return read_shard(folder, shard, embed_dim)[[location.row for location in locations]]
