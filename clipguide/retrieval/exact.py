"""Exact search: the k rows nearest to a query, the same on every device and for every sharding.

A quick product in float32 finds every row that could be among the best, by its own error bound;
their products are computed again without any error (`clipguide.retrieval.dot`) and rounded once. So
the result does not depend on the order in which a device adds, on threads, or on which rows are
searched together. Ties go by id.

Rows that are equal or nearly so cannot be told apart by the quick product. Of equal ones one is
multiplied (`equal_rows`); where many are near, their differences are multiplied (`one_query`);
for many queries one in float64 comes between (`many_queries`). `tests/exact_search_report.py`
prints what that costs beside faiss's IndexFlatIP.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import TypeAlias

from torch import Tensor

from clipguide.retrieval.equal_rows import leading
from clipguide.retrieval.many_queries import nearest_of_many
from clipguide.retrieval.one_query import nearest_products

Scored: TypeAlias = tuple[float, int]  # (dot product, id)

_FEW = 4  # queries up to which each is searched by itself: reading the rows is the cost


def search_rows(
    vectors: Tensor, ids: Tensor, queries: Tensor, top_k: int, keep: Tensor | None = None
) -> list[list[Scored]]:
    """The `top_k` rows of largest dot product with each query: product and id, best first.

    Args:
        vectors: (N,D) float32, or float16 (converted a block at a time), lengths about 1.
        ids: (N,) int64 on the CPU, all different.
        queries: (Q,D) float32.
        top_k: how many; fewer when there are fewer rows.
        keep: (N,) bool: the rows that may be found; all by default.

    Cost: N * Q * D multiplications in float32, and the exact products of about `top_k` rows a
    query; about four times that when most rows are too near to be told apart by float32.
    """
    if not len(vectors):
        return [[] for _ in queries]
    if vectors.device.type == "cpu" and len(queries) <= _FEW:
        found = [nearest_products(vectors, query, top_k, keep) for query in queries.cpu()]
        return [_first(products, ids[rows], top_k) for rows, products in found]
    many = nearest_of_many(vectors, ids, queries, top_k, keep)
    return [_first(products, own, top_k) for products, own in many]


def _first(products: Tensor, ids: Tensor, top_k: int) -> list[Scored]:
    """As `best`, of (n,) products and ids."""
    some = leading(products, ids, top_k)
    products, ids = products[some], ids[some]
    chosen: list[Scored] = list(zip(products.tolist(), ids.tolist(), strict=True))
    return best(top_k, chosen)


def best(top_k: int, scored: Iterable[Scored]) -> list[Scored]:
    """The `top_k` largest, largest first, ties by id. So shards searched apart are merged."""
    return heapq.nsmallest(top_k, scored, key=lambda pair: (-pair[0], pair[1]))
