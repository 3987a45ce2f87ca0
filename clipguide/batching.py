"""A long sequence in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(items: Sequence[T], size: int) -> list[list[T]]:
    """The items in order, `size` at a time; the last part holds what is left.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> batches("abcde", 2)
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    if size < 1:
        raise ValueError(f"got size {size}, expected 1 or more")
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
