"""Exact search: the k rows nearest to a query, the same on every device and for every sharding.

A quick matrix product, of float16 rows as they are for one query or a few and of float32 for many,
finds every row that could be among the best, by its own error bound; those
few are computed again as correctly rounded sums. So the result does not depend on the order in
which a device adds, on threads, or on which rows are searched together. Ties go by id.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Scored: TypeAlias = tuple[float, int]  # (dot product, id)

CHUNK = 65_536  # rows multiplied at a time
_QUERIES = 256  # queries multiplied at a time
_FEW = 4  # queries up to which float16 rows on the CPU are not converted: reading them is the cost


def search_rows(
    vectors: Tensor, ids: Tensor, queries: Tensor, top_k: int, keep: Tensor | None = None
) -> list[list[Scored]]:
    """The `top_k` rows of largest dot product with each query: product and id, best first.

    Args:
        vectors: (N,D) float32, or float16 (converted a chunk at a time), lengths about 1.
        ids: (N,) int64 on the CPU, all different.
        queries: (Q,D) float32.
        top_k: how many; fewer when there are fewer rows.
        keep: (N,) bool: the rows that may be found; all by default.

    Cost: N * Q * D multiplications, and the correctly rounded sums of about `top_k` rows a query.
    """
    if vectors.dtype == torch.float16 and vectors.device.type == "cpu" and len(queries) <= _FEW:
        return [_search_half(vectors, ids, query, top_k, keep) for query in queries]
    found: list[list[Scored]] = [[] for _ in queries]
    for start in range(0, len(vectors), CHUNK):
        rows = slice(start, start + CHUNK)
        part = vectors[rows].float()
        kept = None if keep is None else keep[rows].to(part.device)
        for first in range(0, len(queries), _QUERIES):
            some = queries[first : first + _QUERIES]
            for query, near in enumerate(_candidates(part, some, top_k, kept), first):
                scored = _scores(part, ids[rows], queries[query], near)
                found[query] = best(top_k, [*found[query], *scored])
    return found


def best(top_k: int, scored: Iterable[Scored]) -> list[Scored]:
    """The `top_k` largest, largest first, ties by id. So shards searched apart are merged."""
    return heapq.nsmallest(top_k, scored, key=lambda pair: (-pair[0], pair[1]))


def _search_half(
    vectors: Tensor, ids: Tensor, query: Tensor, top_k: int, keep: Tensor | None
) -> list[Scored]:
    if not len(vectors):
        return []
    products = torch.mv(vectors, query.cpu().half()).float()  # (N,), added in float32
    if keep is not None:
        products[~keep] = -math.inf
    least = float(products.topk(min(top_k, len(vectors))).values[-1])
    # the rounding of the query and of each product to float16, and the sum's own error as below;
    # 2**-24 is the spacing of the smallest float16 numbers
    dim, length = vectors.shape[1], float(query.norm())
    error = 1.02 * length * (2 * 2**-11 + dim * 2**-24) + (1 + math.sqrt(dim)) * 2**-24
    floor = least - 2 * error if least > -math.inf else torch.finfo(torch.float32).min
    near = (products >= floor).nonzero()[:, 0]
    return best(top_k, _scores(vectors, ids, query, near))


def _candidates(part: Tensor, queries: Tensor, top_k: int, keep: Tensor | None) -> Sequence[Tensor]:
    """Per query the rows whose product, within its error, may be among the `top_k` largest."""
    products = part @ queries.to(part.device).T  # (n, Q)
    if keep is not None:
        products[~keep] = -math.inf
    count = min(top_k, len(part))
    least = products.topk(count, dim=0).values[-1]  # (Q,)
    # |computed - true| <= D * u * |a| |b| (Higham 2002, section 3.1; Cauchy-Schwarz)
    unit = 2**-24 if torch.get_float32_matmul_precision() == "highest" else 2**-8
    lengths = queries.norm(dim=1).to(part.device) * 1.01  # rows: 1, and the rounding to float16
    margin = 2.02 * part.shape[1] * unit * lengths
    near = products >= (least - margin).where(least > -math.inf, torch.finfo(torch.float32).min)
    return [near[:, query].nonzero()[:, 0] for query in range(len(queries))]


def _scores(part: Tensor, ids: Tensor, query: Tensor, near: Tensor) -> list[Scored]:
    """Correctly rounded products of these rows: float16 x float32 is exact in float64."""
    exact = part[near].cpu().double() * query.cpu().double()  # (n, D)
    rows: list[list[float]] = exact.tolist()
    chosen: list[int] = ids[near.cpu()].tolist()
    return [(math.fsum(row), id_) for row, id_ in zip(rows, chosen, strict=True)]
