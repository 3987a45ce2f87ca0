"""Dot products without error, many at a time: sums that float64 holds exactly, rounded once.

A query is split into pieces of so few bits that every product of a piece with a row's values, and
every sum of D of them, is a float64 (Ozaki et al. 2012, doi:10.1007/s11075-011-9478-1, section 3):
any library adds them exactly, in any order. What remains is the sum of two or three numbers a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from clipguide.retrieval.equal_rows import same_as_first

_ROW_BITS = 25
"""Of a row's value: float16 up to 2 in steps of 2**-24, all there are."""
_ROWS = 2048  # rows looked at for equal ones at a time
_MOSTLY_ZERO = 8  # one value of so many is not 0: to pick those costs less than to multiply all
_BLOCK = 256  # rows converted at a time, so that they stay in the processor's cache


def exact_products(vectors: Tensor, query: Tensor, rows: Tensor | None = None) -> Tensor:
    """(N,) float64: the correctly rounded dot product of each row with a query.

    Args:
        vectors: (M,D) float16 of magnitude up to 2, or float32, on the CPU.
        query: (D,) float32, on the CPU.
        rows: (N,) int64, which of `vectors`; all by default.

    Cost: N * D multiplications in float64 for each piece: two or three of float16 rows. Of 2,048
    rows of which most are equal to the first, those are compared and not multiplied. Of a query
    that is mostly 0 (where rows that differ can be tied) the rest is multiplied.
    """
    seen = query.nonzero()[:, 0]
    if not 0 < _MOSTLY_ZERO * len(seen) <= len(query):
        seen = None
    pieces = _query_pieces((query if seen is None else query[seen])[None])
    products = [
        _of_block(block if seen is None else block.index_select(1, seen), pieces)
        for block in _blocks(vectors, rows)
    ]
    return torch.cat(products) if products else query.new_empty(0, dtype=torch.float64)


def exact_table(vectors: Tensor, queries: Tensor) -> Tensor:
    """(Q,N) float64: the same products of every row with every query, (Q,D) float32."""
    return _table(vectors, _query_pieces(queries))


def _table(vectors: Tensor, pieces: Tensor) -> Tensor:
    """(Q,N) of the (J,Q,D) pieces of queries."""
    every = pieces.flatten(0, 1)
    convert = _Pieces(vectors)
    sums = [
        torch.cat([every @ piece.T for piece in convert(block)])  # (J*Q, n), exact
        for block in vectors.split(_BLOCK)
    ]
    if not sums:
        return pieces.new_empty((pieces.shape[1], 0))
    return _rounded(torch.cat(sums, dim=1).unflatten(0, (-1, pieces.shape[1])))


def _of_block(block: Tensor, pieces: Tensor) -> Tensor:
    same = same_as_first(block)
    if same is None:
        return _table(block, pieces)[0]
    products = torch.empty(len(block), dtype=torch.float64)
    others = torch.cat([block[:1], block[~same]])
    found = _table(others, pieces)[0]
    products[same], products[~same] = found[0], found[1:]
    return products


def _blocks(vectors: Tensor, rows: Tensor | None) -> Iterator[Tensor]:
    """The rows, some at a time; those that follow each other are not copied."""
    if rows is None:
        yield from vectors.split(_ROWS)
        return
    for some in rows.split(_ROWS):
        first = int(some[0]) if len(some) else 0
        if bool((some == torch.arange(first, first + len(some))).all()):
            yield vectors[first : first + len(some)]
        else:
            yield vectors.index_select(0, some)


def _rounded(parts: Tensor) -> Tensor:
    """(Q,n) of (J,Q,n): the sums over J, rounded once.

    The rounding errors of adding are exact numbers too (Knuth's TwoSum); where their own sum is
    not, which is rare, the numbers are added by `math.fsum`.
    """
    total, error = parts[0], torch.zeros_like(parts[0])
    inexact = torch.zeros_like(total, dtype=torch.bool)
    for part in parts[1:]:
        total, lost = _two_sum(total, part)
        error, rest = _two_sum(error, lost)
        inexact |= rest != 0
    total = total + error
    for query, row in inexact.nonzero().tolist():
        total[query, row] = math.fsum(parts[:, query, row].tolist())
    return total


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a + b rounded, and what that lost, exactly."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


class _Pieces:
    """Rows of a tensor as float64 pieces, some at a time, each in the memory of the last."""

    def __init__(self, vectors: Tensor) -> None:
        count = min(len(vectors), _BLOCK) if vectors.dtype == torch.float16 else 0
        self._single, self._double = (
            torch.empty((count, vectors.shape[1]), dtype=dtype)
            for dtype in (torch.float32, torch.float64)
        )

    def __call__(self, block: Tensor) -> list[Tensor]:
        if block.dtype != torch.float16:
            return _pieces(block.double(), _ROW_BITS - 1)
        # float32 between: both conversions are vector instructions
        single = self._single[: len(block)].copy_(block)
        return [self._double[: len(block)].copy_(single)]


def _query_pieces(queries: Tensor) -> Tensor:
    """(J,Q,D) of (Q,D) float32."""
    dim = queries.shape[1]
    bits = max(53 - _ROW_BITS - math.ceil(math.log2(max(dim, 2))), 1)
    return torch.stack(_pieces(queries.double(), bits))


def _pieces(values: Tensor, bits: int) -> list[Tensor]:
    """Tensors that add up to `values` exactly, each of multiples of a power of two, at most
    2**bits of them."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not math.isfinite(largest):
        raise ValueError("got a vector with NaN or infinite values, expected a unit vector")
    step = 2.0 ** (math.frexp(largest)[1] - bits)
    pieces: list[Tensor] = []
    while True:
        piece = (values / step).round() * step
        pieces.append(piece)
        values = values - piece
        if not bool(values.any()):
            return pieces
        step *= 2.0**-bits
