"""Items of an index side by side: their names, their vectors, what is known of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipguide.retrieval.filters import Filter, condition
from clipguide.retrieval.index import ApproximateIndex, Index, open_index


@dataclass(frozen=True)
class Items:
    """N items of an index, by path.

    Attributes:
        paths: below the index's root.
        contents: ids; items of the same bytes have one.
        vectors: (N, D) unit vectors, float16 as the index keeps them.
        details: see `clipguide.retrieval.index.Hit`.
    """

    paths: Sequence[str]
    contents: Sequence[int]
    vectors: Tensor
    details: Sequence[Mapping[str, Any]]


def items_of(index: Index, paths: Collection[str] | None = None) -> Items:
    """All items, or those of `paths` that are there.

    Cost: a copy of their vectors, 2 * D bytes an item; no model.
    """
    if isinstance(index, ApproximateIndex):
        index = open_index(index.folder, exact=True)
    rows = {id_: row for row, id_ in enumerate(_ids(index))}
    known = index.catalog.items()
    chosen = sorted(path for path in known if paths is None or path in paths)
    contents = [known[path] for path in chosen]
    details: dict[str, Mapping[str, Any]] = {}
    for content in dict.fromkeys(contents):
        details |= dict(index.catalog.holders(content))
    vectors = torch.cat([shard.vectors.cpu().half() for shard in index.shards])
    places = torch.tensor([rows[content] for content in contents], dtype=torch.int64)
    return Items(chosen, contents, vectors[places], [details[path] for path in chosen])


def meeting(index: Index, items: Items, filters: Sequence[Filter]) -> Tensor:
    """(N,) whether all filters are true of an item."""
    sql, values = condition(filters)
    found: set[str] = set()
    for content in dict.fromkeys(items.contents):
        found |= {path for path, _ in index.catalog.holders(content, sql, values)}
    return torch.tensor([path in found for path in items.paths])


def _ids(index: Index) -> list[int]:
    """Of the rows of all shards, one after the other."""
    return [id_ for shard in index.shards for id_ in shard.ids.tolist()]
