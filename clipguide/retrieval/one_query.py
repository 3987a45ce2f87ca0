"""The rows that may be nearest to one query, and their exact products.

One query's products are quick, reading the rows is the cost; so where many rows of a block were
near, those of the next are not multiplied twice, but better at once: in parts, which are added in
float64, or by their differences from one of them. These are short where rows are nearly equal, and
so are the errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.retrieval.dot import exact_products
from clipguide.retrieval.equal_rows import all_equal
from clipguide.retrieval.quick import error_of

_ROWS = 4096  # rows looked at together
_BLOCK = 2048  # rows converted at a time: fewer leave no time for the work, more no cache
_PARTS = 8  # of a row: so many times less error, and more calls
_FEW = 256  # rows whose exact products cost next to nothing
_SAMPLE = 8  # rows whose differences from the first say whether a block's are short
_SHORT = 0.1  # length of a difference up to which it is much better known than a product


def nearest_products(
    vectors: Tensor, query: Tensor, top_k: int, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Row numbers and exact products of all rows that may be among the `top_k` largest.

    Args:
        vectors: (N,D) float16 or float32, on the CPU.
        query: (D,) float32, on the CPU.
        keep: (N,) bool: the rows that may be found; all by default.

    Cost: N * D multiplications in float32; in float64, up to three times, of the rows whose
    products are too near to the last to be told apart by float32.
    """
    look = FirstLook(query)
    products, errors = (torch.empty(len(vectors), dtype=torch.float64) for _ in range(2))
    floor, at = -math.inf, look.at
    for part in slices(len(vectors), _ROWS):
        rows, own = vectors[part], products[part]
        own[:], errors[part] = at(rows)
        if keep is not None:
            own[~keep[part]] = -math.inf
        least = own - errors[part]
        if int((least > floor).sum()) >= top_k:
            floor = float(least.topk(top_k).values[-1])
        at = look.next(own, floor)
    near = _near(products, errors, top_k)
    doubtful = near[errors[near] > 0]
    if len(doubtful) > _FEW:
        own, error = look.at_crowded(vectors.index_select(0, doubtful))
        products[doubtful], errors[doubtful] = own, error.double()
        near = near[_near(products[near], errors[near], top_k)]
    again = near[errors[near] > 0]
    products[again] = exact_products(vectors, query, again)
    return near, products[near]


def _near(products: Tensor, errors: Tensor, top_k: int) -> Tensor:
    """Which may be among the `top_k` largest, each known but for its error."""
    least = float((products - errors).topk(min(top_k, len(products))).values[-1])
    floor = least if least > -math.inf else torch.finfo(torch.float64).min
    return (products + errors >= floor).nonzero()[:, 0]


_Look: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


class FirstLook:
    """Products of rows with one query, and for each how far it can be from the true one."""

    def __init__(self, query: Tensor) -> None:
        self._query = query
        self._error = error_of(query[None], torch.float32)[0]
        self._pieces = query.split(-(-len(query) // _PARTS))
        self._of_pieces = query.new_empty(len(self._pieces), _BLOCK)
        self._middle: tuple[Tensor, Tensor] | None = None  # a row and its exact product
        self._block = query.new_empty(_BLOCK, len(query))  # one memory for all blocks: a third

    def next(self, products: Tensor, floor: float) -> _Look:
        """The cheapest that leaves few rows near, if the next are as those of these products."""

        def crowded(error: Tensor) -> bool:
            return 4 * int((products + error >= floor).sum()) > len(products)

        if not crowded(self._error):
            return self.at
        return self.at_crowded if crowded(self._error_in_parts) else self.in_parts

    @property
    def _error_in_parts(self) -> Tensor:
        return self._error * len(self._pieces[0]) / len(self._query)

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N,D) float16 or float32 -> (N,) float32 and one number for all."""
        products = self._query.new_empty(len(rows))
        for block, own in zip(rows.split(_BLOCK), products.split(_BLOCK), strict=True):
            torch.mv(self._block[: len(block)].copy_(block), self._query, out=own)
        return products, self._error

    def in_parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N,D) -> (N,) float64 and one number for all: a part's error, as few are added."""
        products = self._query.new_empty(len(rows), dtype=torch.float64)
        for block, own in zip(rows.split(_BLOCK), products.split(_BLOCK), strict=True):
            floats = self._block[: len(block)].copy_(block)
            parts = self._of_pieces[:, : len(block)]
            columns = floats.split(len(self._pieces[0]), dim=1)
            for some, piece, part in zip(columns, self._pieces, parts, strict=True):
                torch.mv(some, piece, out=part)
            torch.sum(parts, 0, dtype=torch.float64, out=own)
        return products, self._error_in_parts

    def at_crowded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N,D) -> (N,) float64 twice, of rows that the products of `at` do not tell apart."""
        if all_equal(rows):
            return exact_products(rows[:1], self._query), torch.zeros(1)
        if self._middle is None or not _all_short(rows, self._middle[0]):
            first = rows[0].float()
            if not _all_short(rows, first):
                return exact_products(rows, self._query), torch.zeros(1)
            self._middle = first, exact_products(rows[:1], self._query)
        first, product = self._middle
        products, lengths = self._query.new_empty(len(rows)), list[Tensor]()
        for block, own in zip(rows.split(_BLOCK), products.split(_BLOCK), strict=True):
            away = self._block[: len(block)].copy_(block).sub_(first)
            torch.mv(away, self._query, out=own)
            lengths.append(_longest(away))
        # twice the error of a row of length 1: that of the product, and less than it for rounding
        # the difference
        return products.double() + product, 2 * self._error * torch.cat(lengths)


def _all_short(rows: Tensor, first: Tensor) -> bool:
    """Whether some of the rows differ little from a row."""
    some = rows[:: max(len(rows) // _SAMPLE, 1)].float() - first
    return float(some.norm(dim=1).max()) <= _SHORT


def _longest(rows: Tensor) -> Tensor:
    """(N,) lengths not exceeded: that of all together, or each row's own where that is long."""
    every = rows.view(-1)
    together = math.sqrt(float(torch.dot(every, every)))
    return rows.new_full((len(rows),), together) if together <= _SHORT else rows.norm(dim=1)
