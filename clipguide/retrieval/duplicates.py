"""Near-duplicates: groups of items whose vectors are almost the same, and exact copies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from clipguide.batching import slices
from clipguide.retrieval.index import ApproximateIndex, Index, open_index

_BLOCK = 2048  # rows compared with all others at a time


@dataclass(frozen=True)
class Group:
    """Items that are alike.

    Attributes:
        paths: of the items, sorted.
        cosine: the lowest by which one of them was joined to the group; 1.0 when all are copies.
    """

    paths: tuple[str, ...]
    cosine: float


def find_duplicates(index: Index, threshold: float = 0.95) -> list[Group]:
    """Groups of items linked by cosines of at least `threshold`, largest group first.

    Files of the same bytes are always one group. Items of a group are linked in a chain: the first
    and the last may be less alike than `threshold`. Cosines are of float16 vectors, good to three
    decimals.

    Cost: N * N * D multiplications in blocks; no model.

    Raises:
        ValueError: a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"got threshold {threshold}, expected a cosine in (0, 1]")
    if isinstance(index, ApproximateIndex):
        index = open_index(index.folder, exact=True)
    links = sorted(_links(index, threshold), reverse=True)  # strongest first: Kruskal's order
    leader: dict[int, int] = {}
    weakest: dict[int, float] = {}
    for cosine, one, other in links:
        first, second = sorted((_lead(leader, one), _lead(leader, other)))
        if first != second:
            leader[second] = first
            weakest[first] = cosine
    members: dict[int, list[str]] = {}
    for path, content in index.catalog.items().items():
        members.setdefault(_lead(leader, content), []).append(path)
    groups = [
        Group(tuple(sorted(paths)), weakest.get(first, 1.0))
        for first, paths in members.items()
        if len(paths) > 1
    ]
    return sorted(groups, key=lambda group: (-len(group.paths), group.paths))


def _links(index: Index, threshold: float) -> list[tuple[float, int, int]]:
    """(cosine, id, larger id) of every pair at or above the threshold."""
    if not index.shards:
        return []
    vectors = torch.cat([shard.vectors for shard in index.shards]).float()  # (N, D)
    ids = torch.cat([shard.ids for shard in index.shards])
    vectors = vectors / vectors.norm(dim=1, keepdim=True)  # float16 made them a little uneven
    links: list[tuple[float, int, int]] = []
    for block in slices(len(ids), _BLOCK):
        start = block.start
        cosines = vectors[block] @ vectors[start:].T  # each pair once
        rows, columns = (cosines.triu(diagonal=1) >= threshold).nonzero(as_tuple=True)
        values: list[float] = cosines[rows, columns].clamp(max=1.0).tolist()
        ones: list[int] = ids[start + rows.cpu()].tolist()
        others: list[int] = ids[start + columns.cpu()].tolist()
        links += [(c, min(a, b), max(a, b)) for c, a, b in zip(values, ones, others, strict=True)]
    return links


def _lead(leader: dict[int, int], id_: int) -> int:
    """The group's first member; the way there is shortened."""
    while id_ in leader:
        leader[id_] = leader.get(leader[id_], leader[id_])
        id_ = leader[id_]
    return id_
