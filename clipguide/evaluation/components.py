"""Connected components of a binary image, by run-length union-find, in numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def label_components(mask: Mask) -> tuple[NDArray[np.int32], int]:
    """Numbers the 4-connected components of ``mask``.

    Args:
        mask: (H, W) bool.

    Returns:
        labels (H, W) int32, 0 outside the mask, components 1..count in reading order of their first
        pixel; and count. Equal to ``scipy.ndimage.label``.

    Example:
        >>> label_components(np.eye(2, dtype=bool))[1]
        2
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask: got {mask.dtype} of shape {mask.shape}, expected bool (H, W)")
    height, width = mask.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)  # (H, W + 1): +1 where a run starts, -1 just past its end
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    roots = _join(len(rows), _touching(rows, starts, ends, width + 2))
    firsts, numbers = np.unique(roots, return_inverse=True)
    painted = np.zeros((height, width + 1), dtype=np.int32)
    painted[rows, starts] = numbers + 1
    painted[rows, ends] = -(numbers + 1)
    return np.cumsum(painted, axis=1, dtype=np.int32)[:, :-1], len(firsts)


def _touching(
    rows: NDArray[np.intp], starts: NDArray[np.intp], ends: NDArray[np.intp], stride: int
) -> list[tuple[int, int]]:
    """Pairs (run, run in the next row) that share a column."""
    below = (rows + 1) * stride
    first = np.searchsorted(rows * stride + ends, below + starts, side="right")
    last = np.searchsorted(rows * stride + starts, below + ends, side="left")
    pairs = zip(first.tolist(), last.tolist(), strict=True)
    return [(run, other) for run, (low, high) in enumerate(pairs) for other in range(low, high)]


def _join(count: int, pairs: list[tuple[int, int]]) -> NDArray[np.intp]:
    """The smallest run of each run's component: union-find with path halving."""
    parent = list(range(count))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for one, other in pairs:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.array([root(run) for run in range(count)], dtype=np.intp)


def erode(mask: Mask) -> Mask:
    """The pixels whose four neighbours are all in ``mask``; none on the image's border."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = (
        mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    )
    return inner


def dilate(mask: Mask) -> Mask:
    """The mask and its four-neighbours."""
    outer = mask.copy()
    outer[1:] |= mask[:-1]
    outer[:-1] |= mask[1:]
    outer[:, 1:] |= mask[:, :-1]
    outer[:, :-1] |= mask[:, 1:]
    return outer
