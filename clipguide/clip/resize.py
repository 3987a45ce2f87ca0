"""Pillow's resampling as two banded matrices: the same pixels, on tensors, differentiable.

Pillow resizes 8-bit images one axis at a time, rounded and clipped to 8 bits after each. Its
weights are fixed-point numbers of 22 fractional bits (`precompute_coeffs` and
`normalize_coeffs_8bpc` of its src/libImaging/Resample.c). Rebuilt here in float64 every product and
sum is exact, so `resize_as_pil` gives Pillow's own bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import PIL
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PILLOW = int(PIL.__version__.split(".")[0])
_PRECISION = 2.0**22  # Pillow's PRECISION_BITS = 32 - 8 - 2


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    return np.where(x < 1, 1 - x, 0.0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a, x = -0.5, np.abs(x)  # Keys 1981 with a = -1/2
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)


FILTERS: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Name -> (kernel, support) as in Pillow."""


@dataclass(frozen=True)
class Axis:
    """One axis of a resize and crop: `source` pixels become `target`, of which [start, stop) stay.

    Pixels of [start, stop) that lie outside [0, target) are padding.
    """

    source: int
    target: int
    start: int
    stop: int

    @property
    def kept(self) -> tuple[int, int]:
        """[start, stop) without the padding."""
        return max(self.start, 0), min(self.stop, self.target)

    @property
    def padding(self) -> tuple[int, int]:
        """Padding pixels before and after."""
        low, high = self.kept
        return low - self.start, self.stop - high

    @property
    def length(self) -> int:
        """Pixels that come out, padding included."""
        return self.stop - self.start


@lru_cache(maxsize=512)
def band(axis: Axis, interpolation: str) -> tuple[int, NDArray[np.float64]]:
    """The matrix (span, kept) of one axis, and the first source pixel of its span.

    Raises:
        ValueError: unknown interpolation.
    """
    if interpolation not in FILTERS:
        raise ValueError(f"got interpolation {interpolation!r}, expected one of {[*FILTERS]}")
    kernel, support = FILTERS[interpolation]
    low, high = axis.kept
    scale = axis.source / axis.target
    stretch = max(scale, 1.0)
    center = (np.arange(low, high) + 0.5) * scale  # (kept,)
    first = np.maximum((center - support * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support * stretch + 0.5).astype(np.int64), axis.source)
    taps = np.arange(int((last - first).max()))[:, None]  # (taps, 1)
    weights = kernel((taps + first - center + 0.5) * (1 / stretch))  # (taps, kept)
    weights = np.where(taps < last - first, weights, 0.0)
    weights = weights / np.cumsum(weights, axis=0)[-1]  # summed in Pillow's order
    fixed = np.trunc(weights * _PRECISION + np.copysign(0.5, weights)) / _PRECISION
    begin, end = int(first.min()), int(last.max())
    matrix = np.zeros((end - begin, high - low))
    rows = np.minimum(taps + first - begin, end - begin - 1)
    np.add.at(matrix, (rows, np.broadcast_to(np.arange(high - low), rows.shape)), fixed)
    return begin, matrix


@lru_cache(maxsize=256)
def _matrix(
    axis: Axis, interpolation: str, dtype: torch.dtype, device: torch.device
) -> tuple[slice, Tensor]:
    begin, matrix = band(axis, interpolation)
    tensor = torch.from_numpy(matrix).to(device=device, dtype=dtype)
    return slice(begin, begin + matrix.shape[0]), tensor


def resize(
    images: Tensor, rows: Axis, columns: Axis, interpolation: str, fill: float = 0.0
) -> Tensor:
    """(..., H, W) -> (..., h, w) in floating point: Pillow's weights, nothing rounded or clipped.

    Linear in the images; padding is `fill`. Matrices are cached by size, type and device.
    """
    images = _across(images, columns, interpolation)  # (..., H, w)
    images = _down(images, rows, interpolation)  # (..., h, w)
    return _pad(images, rows, columns, fill)


def resize_as_pil(
    pixels: Tensor, rows: Axis, columns: Axis, interpolation: str, fill: float = 0.0
) -> Tensor:
    """(..., H, W) whole numbers in 0..255 -> (..., h, w) the whole numbers Pillow gives.

    Computed in float64 (exact) where the device has it, else in float32 (a rare tie may fall the
    other way, 1/255). Rounding passes gradients straight through; clipping stops them.
    """
    work = pixels.to(torch.float32 if pixels.device.type == "mps" else torch.float64)
    if _vertical_first(rows, columns):
        work = _to_byte(_down(work, rows, interpolation))  # (..., h, W)
        work = _to_byte(_across(work, columns, interpolation))  # (..., h, w)
    else:
        work = _to_byte(_across(work, columns, interpolation))  # (..., H, w)
        work = _to_byte(_down(work, rows, interpolation))  # (..., h, w)
    return _pad(work, rows, columns, fill).to(pixels.dtype)


def _vertical_first(rows: Axis, columns: Axis) -> bool:
    """Whether Pillow takes the vertical pass first, which rounds differently.

    Pillow 13 does when the height shrinks by more than twice as many pixels as the width (pull
    request 9549; the factor was read off 2,700 pairs of sizes); earlier ones never do.
    """
    shrink = rows.source - rows.target
    return _PILLOW >= 13 and shrink > max(0, 2 * (columns.source - columns.target))


def _across(images: Tensor, axis: Axis, interpolation: str) -> Tensor:
    if axis.source == axis.target:  # Pillow skips the pass
        return images[..., slice(*axis.kept)]
    span, matrix = _matrix(axis, interpolation, images.dtype, images.device)
    return images[..., span] @ matrix


def _down(images: Tensor, axis: Axis, interpolation: str) -> Tensor:
    if axis.source == axis.target:
        return images[..., slice(*axis.kept), :]
    span, matrix = _matrix(axis, interpolation, images.dtype, images.device)
    return matrix.mT @ images[..., span, :]


def _to_byte(values: Tensor) -> Tensor:
    """Pillow's clip8: half rounds up; the gradient passes the rounding as if it were not there."""
    rounded = values.detach().add(0.5).floor()
    return (rounded + (values - values.detach())).clamp(0, 255)


def _pad(images: Tensor, rows: Axis, columns: Axis, fill: float) -> Tensor:
    sides = (*columns.padding, *rows.padding)
    return torch.nn.functional.pad(images, sides, value=fill) if any(sides) else images
