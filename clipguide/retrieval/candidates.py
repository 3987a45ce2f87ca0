"""The rows that may be nearest to many queries at once.

Products in float32, by blocks of rows, and of each query those that may be among the best. Where
they are too many for that, products in float64 (`many_queries` says when).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from clipguide.batching import slices
from clipguide.retrieval.quick import error_of

_ROWS = 2048  # rows multiplied at a time, so that their products stay in the processor's cache
_BLOCK = 256  # the same of float64
_TABLE = 4_000_000  # products in float64 that are held at a time
_LOWEST = torch.finfo(torch.float32).min


def enough(top_k: int) -> int:
    """So many candidates of a query are no crowd: their exact products cost next to nothing."""
    return 8 * top_k + 256


def near_quickly(
    vectors: Tensor, queries: Tensor, top_k: int, keep: Tensor | None, most: float
) -> list[Tensor] | None:
    """Of each query the rows whose product, within float32's error, may be among the `top_k` best.

    What a block adds is compared with the least that can still be among the best. That is known
    after the first block, and looked for again whenever twice as many rows have been seen.

    Args:
        vectors: (N,D) float32 or float16.
        queries: (Q,D) float32, where the vectors are.
        keep: (N,) bool on the CPU: the rows that may be found; all by default.
        most: of all products seen, the part that may be candidates beyond `enough`.

    Returns:
        Row numbers; None when they were more than `most`.
    """
    pool = _Pool(queries, top_k)
    look = 1
    for number, block in enumerate(slices(len(vectors), _ROWS), 1):
        rows = vectors[block]
        numbers = torch.arange(block.start, block.stop, device=rows.device)
        if keep is not None:
            kept = keep[block].to(rows.device)
            rows, numbers = rows[kept], numbers[kept]
        pool.add(rows.float(), numbers)
        if number == look or pool.waiting > _TABLE:
            look = max(look, 2 * number)
            pool.tighten()
            if len(pool) > len(queries) * (enough(top_k) + most * block.stop):
                return None
    return pool.near()


def near_slowly(vectors: Tensor, queries: Tensor, top_k: int, rows: Tensor) -> list[Tensor]:
    """The same among some rows, within float64's error: ties alone are left.

    Args:
        rows: (n,) int64, which of `vectors`, where they are.

    Cost: Q * n * D multiplications in float64.
    """
    near: list[Tensor] = []
    margins = 2 * error_of(queries.double(), torch.float64)
    size = max(_TABLE // len(rows), 1)
    for some, margin in zip(queries.double().split(size), margins.split(size), strict=True):
        table = torch.cat(
            [some @ vectors.index_select(0, part).double().T for part in rows.split(_BLOCK)], dim=1
        )
        least = table.topk(min(top_k, len(rows)), dim=1).values[:, -1:]
        near += [rows[close] for close in table >= least - margin[:, None]]
    return near


class _Pool:
    """Candidates of some queries, and the least product that a row must have to be one.

    Args:
        queries: (Q,D) float32.
        top_k: how many rows are wanted.
    """

    def __init__(self, queries: Tensor, top_k: int) -> None:
        self._queries, self._top_k = queries, top_k
        self._multiplied = _multiplying(queries)
        self._margin = 2 * error_of(queries, torch.float32)  # (Q,)
        self._floor = torch.full_like(self._margin, _LOWEST)
        self._which = torch.empty(0, dtype=torch.int64, device=queries.device)
        self._rows, self._products = self._which, self._margin[:0]
        self._new: list[tuple[Tensor, Tensor, Tensor]] = []
        self.waiting = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Tensor, numbers: Tensor) -> None:
        """Some (n,D) rows, and which they are."""
        products = self._multiplied(rows)  # (Q, n)
        if len(rows) >= self._top_k and bool((self._floor == _LOWEST).any()):
            self._raise(products.topk(self._top_k, dim=1).values[:, -1])
        which, column = _nonzero(products >= self._floor[:, None])
        self._new.append((which, numbers[column], products[which, column]))
        self.waiting += len(which)

    def _raise(self, least: Tensor) -> None:
        """`least`: of each query a product that `top_k` rows have or surpass."""
        self._floor = torch.maximum(self._floor, least - self._margin)

    def tighten(self) -> None:
        """Raise the floor to what the candidates say, and drop those below."""
        parts = zip((self._which, self._rows, self._products), *self._new, strict=True)
        which, rows, products = (torch.cat(part) for part in parts)
        self._new.clear()
        self.waiting = 0
        order = products.argsort(descending=True)
        order = order[which[order].argsort(stable=True)]  # by query, best first
        which, rows, products = which[order], rows[order], products[order]
        counts = which.bincount(minlength=len(self._queries))
        last = counts.cumsum(0) - counts + self._top_k - 1
        full = counts >= self._top_k
        if bool(full.any()):
            least = torch.full_like(self._floor, _LOWEST)
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


def _multiplying(queries: Tensor) -> Callable[[Tensor], Tensor]:
    """(n,D) float32 rows -> (Q,n) products with the queries.

    On a CPU by oneDNN: torch's own product is MKL's, which on processors that are not Intel's
    leaves half of the vector units unused.
    """
    if (
        queries.device.type != "cpu"
        or not queries.numel()
        or not torch.backends.mkldnn.is_available()
    ):
        return lambda rows: queries @ rows.T
    own = queries.to_mkldnn()
    return lambda rows: linear(own, rows).to_dense() if len(rows) else queries @ rows.T


def _nonzero(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is true; NumPy skips what is not, torch looks at each."""
    if mask.device.type != "cpu":
        rows, columns = mask.nonzero(as_tuple=True)
        return rows, columns
    flat = torch.from_numpy(mask.numpy().ravel().nonzero()[0])
    return flat // mask.shape[1], flat % mask.shape[1]
