"""Exact search: the k rows nearest to a query, the same on every device and for every sharding.

A quick matrix product, of float16 rows as they are for one query or a few and of float32 for many,
finds every row that could be among the best, by its own error bound; their products are computed
again without any error (`clipguide.retrieval.dot`) and rounded once. So the result does not depend
on the order in which a device adds, on threads, or on which rows are searched together. Ties go by
id. However many rows are nearly equal, each costs one more product, in float64: one query of
100,000 rows of 512 costs 23 ms of CPU, 38 when 20,000 of them are equal, 92 when all are, and 1,000
queries of 200,000 rows 1.26 times what faiss's IndexFlatIP does (`tests/exact_search_report.py`).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.retrieval.dot import exact_products

Scored: TypeAlias = tuple[float, int]  # (dot product, id)

_ROWS = 2048  # rows multiplied at a time, so that their products stay in the processor's cache
_QUERIES = 512  # queries multiplied at a time
_FEW = 4  # queries up to which float16 rows on the CPU are not converted: reading them is the cost
_LOWEST = torch.finfo(torch.float32).min


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

    Cost: N * Q * D multiplications, and the exact products of about `top_k` rows a query, or of as
    many as are too near to the last of them to be told apart by float32.
    """
    if not len(vectors):
        return [[] for _ in queries]
    if vectors.dtype == torch.float16 and vectors.device.type == "cpu" and len(queries) <= _FEW:
        near = [_near_half(vectors, query, top_k, keep) for query in queries]
    else:
        near = _near(vectors, queries, top_k, keep)
    found: list[list[Scored]] = []
    for query, rows in zip(queries, near, strict=True):
        if vectors.device.type == "cpu":
            products = exact_products(vectors, query.cpu(), rows)
        else:
            products = exact_products(vectors.index_select(0, rows).cpu(), query.cpu())
        found.append(_first(products, ids[rows.cpu()], top_k))
    return found


def _first(products: Tensor, ids: Tensor, top_k: int) -> list[Scored]:
    """As `best`, of (n,) products and ids; equal products are many."""
    if len(products) > top_k:
        least = products.topk(top_k).values[-1]
        above, tied = products > least, ids[products == least]
        lowest = tied.topk(min(top_k, len(tied)), largest=False).values
        products = torch.cat([products[above], least.expand(len(lowest))])
        ids = torch.cat([ids[above], lowest])
    chosen: list[Scored] = list(zip(products.tolist(), ids.tolist(), strict=True))
    return best(top_k, chosen)


def best(top_k: int, scored: Iterable[Scored]) -> list[Scored]:
    """The `top_k` largest, largest first, ties by id. So shards searched apart are merged."""
    return heapq.nsmallest(top_k, scored, key=lambda pair: (-pair[0], pair[1]))


def _near_half(vectors: Tensor, query: Tensor, top_k: int, keep: Tensor | None) -> Tensor:
    """The rows whose product, within its error, may be among the `top_k` largest."""
    products = torch.mv(vectors, query.cpu().half()).float()  # (N,), added in float32
    if keep is not None:
        products[~keep] = -math.inf
    least = float(products.topk(min(top_k, len(vectors))).values[-1])
    # the rounding of the query and of each product to float16, and the sum's own error as below;
    # 2**-24 is the spacing of the smallest float16 numbers
    dim, length = vectors.shape[1], float(query.norm())
    error = 1.02 * length * (2 * 2**-11 + dim * 2**-24) + (1 + math.sqrt(dim)) * 2**-24
    floor = least - 2 * error if least > -math.inf else _LOWEST
    return (products >= floor).nonzero()[:, 0]


def _near(vectors: Tensor, queries: Tensor, top_k: int, keep: Tensor | None) -> list[Tensor]:
    """The same for every query, by blocks of rows and queries.

    What a block adds is compared with the least that can still be among the best. That is known
    after the first block, and looked for again whenever twice as many rows have been seen.
    """
    device = vectors.device
    pool = [_Pool(part.to(device), top_k) for part in queries.split(_QUERIES)]
    look = 1
    for seen, block in enumerate(slices(len(vectors), _ROWS), 1):
        rows = vectors[block].float()  # (n, D)
        kept = None if keep is None else keep[block].to(device)
        for part in pool:
            part.add(rows, block.start, kept)
        if seen == look:
            look *= 2
            for part in pool:
                part.tighten()
    return [near for part in pool for near in part.near()]


class _Pool:
    """Candidates of some queries, and the least product that a row must have to be one.

    Args:
        queries: (Q,D) float32.
        top_k: how many rows are wanted.
    """

    def __init__(self, queries: Tensor, top_k: int) -> None:
        self._queries, self._top_k = queries, top_k
        # |computed - true| <= D * u * |a| |b| (Higham 2002, section 3.1; Cauchy-Schwarz)
        unit = 2**-24 if torch.get_float32_matmul_precision() == "highest" else 2**-8
        lengths = queries.norm(dim=1) * 1.01  # rows: 1, and the rounding to float16
        self._margin = 2.02 * queries.shape[1] * unit * lengths  # (Q,)
        self._floor = torch.full_like(self._margin, _LOWEST)
        self._which = torch.empty(0, dtype=torch.int64, device=queries.device)
        self._rows, self._products = self._which, self._margin[:0]
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, rows: Tensor, start: int, kept: Tensor | None) -> None:
        products = self._queries @ rows.T  # (Q, n)
        if kept is not None:
            products[:, ~kept] = -math.inf
        if start == 0:
            least = products.topk(min(self._top_k, len(rows)), dim=1).values[:, -1]
            if len(rows) >= self._top_k:
                self._raise(least)
        which, column = _nonzero(products >= self._floor[:, None])
        self._new.append((which, column + start, products[which, column]))

    def _raise(self, least: Tensor) -> None:
        """`least`: of each query a product that `top_k` rows have or surpass; -inf: not yet."""
        self._floor = torch.maximum(self._floor, least - self._margin)

    def tighten(self) -> None:
        """Raise the floor to what the candidates say, and drop those below."""
        parts = zip((self._which, self._rows, self._products), *self._new, strict=True)
        which, rows, products = (torch.cat(part) for part in parts)
        self._new.clear()
        order = products.argsort(descending=True)
        order = order[which[order].argsort(stable=True)]  # by query, best first
        which, rows, products = which[order], rows[order], products[order]
        counts = which.bincount(minlength=len(self._queries))
        last = counts.cumsum(0) - counts + self._top_k - 1
        full = counts >= self._top_k
        if bool(full.any()):
            least = torch.full_like(self._floor, -math.inf)
            least[full] = products[last[full]]
            self._raise(least)
            alive = products >= self._floor[which]
            which, rows, products = which[alive], rows[alive], products[alive]
        self._which, self._rows, self._products = which, rows, products

    def near(self) -> list[Tensor]:
        """The candidates' rows, of each query."""
        self.tighten()
        counts: list[int] = self._which.bincount(minlength=len(self._queries)).tolist()
        return list(self._rows.split(counts))


def _nonzero(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is true; NumPy skips what is not, torch looks at each."""
    if mask.device.type != "cpu":
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    flat = torch.from_numpy(mask.numpy().ravel().nonzero()[0])
    return flat // mask.shape[1], flat % mask.shape[1]
