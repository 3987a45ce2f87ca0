"""A long sequence in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def slices(count: int, size: int) -> list[slice]:
    """The parts of a sequence of length `count`, `size` items each; the last holds what is left.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> slices(5, 2)
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if size < 1:
        raise ValueError(f"got size {size}, expected 1 or more")
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def batches(items: Sequence[T], size: int) -> list[list[T]]:
    """The items in order, in parts as `slices` cuts them.

    Raises:
        ValueError: as `slices`.

    Example:
        >>> batches("abcde", 2)
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    return [list(items[part]) for part in slices(len(items), size)]
