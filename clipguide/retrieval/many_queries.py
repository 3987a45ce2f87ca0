"""The rows nearest to many queries, and their exact products, however many rows are nearly equal.

Candidates of float32 (`candidates`); where they crowd, of equal rows one (`equal_rows`); where they
crowd still, candidates of float64, then exact products. So none of the steps costs much more than
the first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.retrieval.candidates import enough, near_quickly, near_slowly
from clipguide.retrieval.dot import exact_products, exact_table
from clipguide.retrieval.equal_rows import EqualRows

_QUERIES = 512  # searched at a time
_CROWD = 0.25  # of all products: beyond, those in float32 are not looked at to the end
_SLOWLY = 16  # an exact product of one pair costs about as much as so many of a float64 table
_TABLE = 5  # the same, of an exact table
_HELD = 4_000_000  # exact products that are held at a time


def nearest_of_many(
    vectors: Tensor, ids: Tensor, queries: Tensor, top_k: int, keep: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """Exact products and ids of all rows that may be among the `top_k` best, of each query.

    Of rows that are equal the `top_k` lowest ids. Arguments as of `search_rows`.
    """
    equal: EqualRows | None = None
    found: list[tuple[Tensor, Tensor]] = []
    keep = None if keep is None else keep.cpu()
    for part in queries.to(vectors.device).split(_QUERIES):
        near = None
        if equal is None:
            near = near_quickly(vectors, part, top_k, keep, most=0.0)
        if near is None:
            equal = equal or EqualRows(vectors, ids, keep)
            near = _of_different(vectors, part, top_k, equal.first)
        for rows, products in zip(near, _exact(vectors, part, near), strict=True):
            rows = rows.cpu()
            members = equal.members(rows, products, top_k) if equal else (products, ids[rows])
            found.append(members)
    return found


def _of_different(vectors: Tensor, queries: Tensor, top_k: int, first: Tensor) -> list[Tensor]:
    """The candidates of each query among rows that are all different."""
    near = near_quickly(vectors, queries, top_k, first, most=_CROWD)
    if near is None:
        rows = first.nonzero()[:, 0].to(vectors.device)
        return near_slowly(vectors, queries, top_k, rows)
    crowded = [place for place, rows in enumerate(near) if len(rows) > enough(top_k)]
    if crowded:
        union = _union(vectors, [near[place] for place in crowded])
        pairs = sum(len(near[place]) for place in crowded)
        if _SLOWLY * pairs > len(crowded) * len(union):
            again = near_slowly(vectors, queries[crowded], top_k, union)
            for place, rows in zip(crowded, again, strict=True):
                near[place] = rows
    return near


def _exact(vectors: Tensor, queries: Tensor, near: list[Tensor]) -> list[Tensor]:
    """The exact products of each query with its rows."""
    union = _union(vectors, near)
    queries = queries.cpu()
    if _TABLE * sum(len(rows) for rows in near) < len(queries) * len(union):
        return [_alone(vectors, query, rows) for query, rows in zip(queries, near, strict=True)]
    chosen = vectors.index_select(0, union).cpu()
    size = max(_HELD // max(len(union), 1), 1)
    tables = (row for some in queries.split(size) for row in exact_table(chosen, some))
    place = torch.zeros(len(vectors), dtype=torch.int64, device=union.device)
    place[union] = torch.arange(len(union), device=union.device)
    return [table[place[rows].cpu()] for table, rows in zip(tables, near, strict=True)]


def _union(vectors: Tensor, near: list[Tensor]) -> Tensor:
    """All rows of some queries, ascending."""
    there = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    there[torch.cat(near)] = True
    return there.nonzero()[:, 0]


def _alone(vectors: Tensor, query: Tensor, rows: Tensor) -> Tensor:
    if vectors.device.type == "cpu":
        return exact_products(vectors, query, rows)
    return exact_products(vectors.index_select(0, rows).cpu(), query)
