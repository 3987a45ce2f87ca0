"""The rows that may be nearest to one query, and their exact products.

One query's products are quick, reading the rows is the cost; so where many rows of a block were
near, those of the next are not multiplied twice, but at once without error, or by their differences
from one of them: these are short where rows are nearly equal, and so are the errors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.retrieval.dot import exact_products
from clipguide.retrieval.equal_rows import all_equal
from clipguide.retrieval.quick import error_of

_ROWS = 4096  # rows looked at together
_BLOCK = 1024  # rows converted at a time: fewer leave no time for the work, more no cache
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
    look = _FirstLook(query)
    products, errors = (torch.empty(len(vectors), dtype=torch.float64) for _ in range(2))
    floor, crowded = -math.inf, False
    for part in slices(len(vectors), _ROWS):
        rows, own = vectors[part], products[part]
        own[:], errors[part] = look.at_crowded(rows) if crowded else look.at(rows)
        if keep is not None:
            own[~keep[part]] = -math.inf
        least = own - errors[part]
        if int((least > floor).sum()) >= top_k:
            floor = float(least.topk(top_k).values[-1])
        crowded = 4 * int((own + look.error >= floor).sum()) > len(rows)
    least = float((products - errors).topk(min(top_k, len(products))).values[-1])
    floor = least if least > -math.inf else torch.finfo(torch.float64).min
    near = (products + errors >= floor).nonzero()[:, 0]
    again = near[errors[near] > 0]
    products[again] = exact_products(vectors, query, again)
    return near, products[near]


class _FirstLook:
    """Products of rows with one query, and for each how far it can be from the true one."""

    def __init__(self, query: Tensor) -> None:
        self._query = query
        self.error = error_of(query[None], torch.float32)[0]
        self._middle: tuple[Tensor, Tensor] | None = None  # a row and its exact product
        self._block = query.new_empty(_BLOCK, len(query))  # one memory for all blocks: a third

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N,D) float16 or float32 -> (N,) float32 and one number for all."""
        products = self._query.new_empty(len(rows))
        for block, own in zip(rows.split(_BLOCK), products.split(_BLOCK), strict=True):
            torch.mv(self._block[: len(block)].copy_(block), self._query, out=own)
        return products, self.error

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
        return products.double() + product, 2 * self.error * torch.cat(lengths)


def _all_short(rows: Tensor, first: Tensor) -> bool:
    """Whether some of the rows differ little from a row."""
    some = rows[:: max(len(rows) // _SAMPLE, 1)].float() - first
    return float(some.norm(dim=1).max()) <= _SHORT


def _longest(rows: Tensor) -> Tensor:
    """(N,) lengths not exceeded: that of all together, or each row's own where that is long."""
    every = rows.view(-1)
    together = math.sqrt(float(torch.dot(every, every)))
    return rows.new_full((len(rows),), together) if together <= _SHORT else rows.norm(dim=1)
