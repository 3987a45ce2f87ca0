"""How far a product computed in floating point can be from the true one."""

from __future__ import annotations

import torch
from torch import Tensor

_LENGTH = 1.01  # of a row: 1, and the rounding to float16


def error_of(queries: Tensor, dtype: torch.dtype) -> Tensor:
    """(Q,) the largest error of a product of a row of length 1 with each query, added in `dtype`.

    |computed - true| <= D * u * |a| |b|, in whatever order (Higham 2002, section 3.1;
    Cauchy-Schwarz); 1 % more for what is of second order.

    Args:
        queries: (Q,D) float32.
        dtype: float32, multiplied as torch is set to, or float64.
    """
    unit = torch.finfo(dtype).eps / 2
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        unit = 2**-8
    return 1.01 * queries.shape[1] * unit * _LENGTH * queries.norm(dim=1)
