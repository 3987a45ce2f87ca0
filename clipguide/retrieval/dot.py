"""Dot products without error, many at a time: sums that float64 holds exactly, rounded once.

A query is split into pieces of so few bits that every product of a piece with a row's values, and
every sum of D of them, is a float64 (Ozaki et al. 2012, doi:10.1007/s11075-011-9478-1, section 3):
any library adds them exactly, in any order. What remains is the sum of two or three numbers a row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROW_BITS = 25
"""Of a row's value: float16 up to 2 in steps of 2**-24, all there are."""
_BLOCK = 1024  # rows converted at a time, so that they stay in the processor's cache


def exact_products(rows: Tensor, query: Tensor) -> list[float]:
    """The correctly rounded dot product of each row with a query.

    Args:
        rows: (N,D) float16 of magnitude up to 2, or float32, on the CPU.
        query: (D,) float32, on the CPU.

    Cost: N * D multiplications in float64 for each piece: two or three of float16 rows.
    """
    dim = rows.shape[1]
    bits = max(53 - _ROW_BITS - math.ceil(math.log2(max(dim, 2))), 1)
    pieces = torch.stack(_pieces(query.double(), bits), dim=1)  # (D, J)
    parts: list[list[float]] = []
    for block in rows.split(_BLOCK):
        sums = [part @ pieces for part in _row_pieces(block)]  # (n, J) each, exact
        parts += torch.cat(sums, dim=1).tolist()
    return [math.fsum(part) for part in parts]


def _row_pieces(block: Tensor) -> list[Tensor]:
    if block.dtype == torch.float16:
        return [block.float().double()]  # float32 between: both conversions are vector instructions
    return _pieces(block.double(), _ROW_BITS - 1)


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
