"""The rows that may be nearest to one query, and their exact products.

One query's products are quick, reading the rows is the cost; so a block of rows most of which are
near is not multiplied twice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.retrieval.dot import exact_products
from clipguide.retrieval.quick import error_of

_ROWS = 2048  # rows looked at together
_BLOCK = 256  # rows converted at a time, so that they stay in the processor's cache


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
    margin = 2 * float(error_of(query[None], torch.float32))
    products = torch.empty(len(vectors), dtype=torch.float64)
    exact = torch.zeros(len(vectors), dtype=torch.bool)
    floor, crowded = -math.inf, False
    for part in slices(len(vectors), _ROWS):
        rows, own = vectors[part], products[part]
        own.copy_(exact_products(rows, query) if crowded else _quick_products(rows, query))
        exact[part] = crowded
        if keep is not None:
            own[~keep[part]] = -math.inf
        if len(rows) >= top_k:
            floor = max(floor, float(own.topk(top_k).values[-1]) - margin)
        crowded = 2 * int((own >= floor).sum()) > len(rows)
    least = float(products.topk(min(top_k, len(products))).values[-1])
    floor = least - margin if least > -math.inf else torch.finfo(torch.float64).min
    near = (products >= floor).nonzero()[:, 0]
    again = near[~exact[near]]
    products[again] = exact_products(vectors, query, again)
    return near, products[near]


def _quick_products(rows: Tensor, query: Tensor) -> Tensor:
    return torch.cat([torch.mv(block.float(), query) for block in rows.split(_BLOCK)])
