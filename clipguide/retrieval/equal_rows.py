"""Rows that are equal, bit by bit: copies of one image, blank pictures, a placeholder.

Their products with a query are equal, so one of them is multiplied. Finding them costs about as
much as multiplying all rows by one query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.batching import slices

_BLOCK = 512  # rows compared at a time, so that they stay in the processor's cache
_SAMPLE = 32  # rows compared first: where few of them are equal, so are few of all


class EqualRows:
    """Groups of equal rows, each named by its first.

    Args:
        vectors: (N,D) float16 or float32.
        ids: (N,) int64 on the CPU, all different.
        keep: (N,) bool on the CPU: the rows that there are; all by default.

    Attributes:
        first: (N,) bool on the CPU: the first of each group, and rows that are like no other.
    """

    def __init__(self, vectors: Tensor, ids: Tensor, keep: Tensor | None = None) -> None:
        rows = torch.arange(len(vectors)) if keep is None else keep.nonzero()[:, 0]
        leader = _leaders(_bits(vectors), rows)  # (M,) of M rows that there are
        order = ids[rows].argsort()
        order = order[leader[order].argsort(stable=True)]  # by group, ids ascending
        self._ids = ids[rows[order]]
        self.first = torch.zeros(len(vectors), dtype=torch.bool)
        self.first[leader] = True
        self._counts = torch.zeros(len(vectors), dtype=torch.int64)
        self._counts.index_add_(0, leader, torch.ones_like(leader))
        self._starts = self._counts.cumsum(0) - self._counts

    def members(self, firsts: Tensor, products: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
        """Products and ids among which the `top_k` largest products are, ties by id.

        Args:
            firsts: (n,) int64 on the CPU, first rows.
            products: (n,), of each and so of its group.
        """
        some = leading(products, self._ids[self._starts[firsts]], top_k)
        firsts, products = firsts[some], products[some]
        counts = self._counts[firsts].clamp(max=top_k)  # ids ascend within a group
        begin = (self._starts[firsts] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
        places = torch.arange(int(counts.sum())) + begin
        return products.repeat_interleave(counts), self._ids[places]


def leading(products: Tensor, ids: Tensor, top_k: int) -> Tensor:
    """Where the `top_k` largest products are, in no order; of equal ones the lowest ids."""
    if len(products) <= top_k:
        return torch.arange(len(products))
    least = products.topk(top_k).values[-1]
    above = (products > least).nonzero()[:, 0]
    tied = (products == least).nonzero()[:, 0]
    lowest = ids[tied].topk(top_k - len(above), largest=False).indices
    return torch.cat([above, tied[lowest]])


def all_equal(rows: Tensor) -> bool:
    """Whether there is but one row, once or more often."""
    bits = _bits(rows)
    return torch.equal(bits[1:], bits[:-1])


def same_as_first(rows: Tensor) -> Tensor | None:
    """(n,) bool: which rows are equal to the first of them; None when not many are."""
    if len(rows) < 2:
        return None
    bits = _bits(rows)
    some = bits[:: max(len(bits) // _SAMPLE, 1)]
    if 2 * int((some == bits[0]).all(dim=1).sum()) < len(some):
        return None
    same = torch.cat([(part == bits[0]).all(dim=1) for part in bits.split(_BLOCK)])
    return same if 2 * int(same.sum()) >= len(rows) else None


def _bits(rows: Tensor) -> Tensor:
    """Rows as integers, the widest that fit: few to compare."""
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    width = rows.shape[1] * rows.element_size()
    starts = [stride * rows.element_size() for stride in rows.stride()[:-1]]
    fits = all(size % 8 == 0 for size in (width, *starts, rows.data_ptr()))
    small = torch.int16 if rows.element_size() == 2 else torch.int32
    return rows.view(torch.int64 if fits else small)


def _leaders(bits: Tensor, rows: Tensor) -> Tensor:
    """(M,) int64 on the CPU: for each of M rows the first one that is equal to it.

    Equal rows have one hash; whether rows of one hash are equal is looked at.
    """
    draw = torch.Generator().manual_seed(0)
    limit = 2**62
    weights = torch.randint(-limit, limit, (bits.shape[1],), generator=draw).to(bits.device)
    every = len(rows) == len(bits)
    hashes: list[Tensor] = []
    for part in slices(len(rows), _BLOCK):
        block = bits[part] if every else bits.index_select(0, rows[part].to(bits.device))
        hashes.append((block.long() * weights).sum(dim=1).cpu())  # modulo 2**64
    hashed, order = torch.cat([*hashes, torch.empty(0, dtype=torch.int64)]).sort(stable=True)
    new = torch.ones(len(rows), dtype=torch.bool)
    new[1:] = hashed[1:] != hashed[:-1]
    leader = torch.empty_like(rows)
    leader[order] = rows[order[new.nonzero()[:, 0]][new.cumsum(0) - 1]]
    others = (leader != rows).nonzero()[:, 0]
    for some in others.split(_BLOCK):
        at, like = (which[some].to(bits.device) for which in (rows, leader))
        same = (bits.index_select(0, at) == bits.index_select(0, like)).all(dim=1).cpu()
        leader[some[~same]] = rows[some[~same]]
    return leader
