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
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import PIL
import torch
from torch import Tensor

from clipguide.batching import slices
from clipguide.clip.inference_mode import ordinary_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PILLOW = int(PIL.__version__.split(".")[0])
_BLOCK = 32  # output pixels of one piece of a band on a CPU
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


@dataclass(frozen=True)
class _Block:
    """Output pixels [begin, begin + width) of an axis as a matrix on source pixels."""

    first: int
    span: int
    begin: int
    width: int
    matrix: Tensor  # (span, width)


@lru_cache(maxsize=256)
@ordinary_tensors()
def _blocks(
    axis: Axis, interpolation: str, dtype: torch.dtype, device: torch.device
) -> tuple[_Block, ...]:
    """The band of an axis, cut so that little of it is zeros; one piece where launches cost more.

    Measured on one core, 512 to 224 pixels: 1.9 ms per image in blocks of 32, 9.9 ms dense.
    """
    first, whole = band(axis, interpolation)
    step = _BLOCK if device.type == "cpu" else whole.shape[1]
    blocks: list[_Block] = []
    for columns in slices(whole.shape[1], step):
        part = whole[:, columns]
        used = np.flatnonzero(part.any(axis=1))
        low, high = int(used[0]), int(used[-1]) + 1
        matrix = torch.from_numpy(part[low:high].copy()).to(device=device, dtype=dtype)
        blocks.append(_Block(first + low, high - low, columns.start, part.shape[1], matrix))
    return tuple(blocks)


class _Band(torch.autograd.Function):
    """A banded matrix along dimension -1 or -2; its gradient is its transpose, also banded."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, blocks: tuple[_Block, ...], dim: int, source: int, adjoint: bool
    ) -> Tensor:
        ctx.settings = (blocks, dim, source, adjoint)
        if adjoint:
            return _spread(images, blocks, dim, source)
        parts = [_product(images.narrow(dim, b.first, b.span), b.matrix, dim) for b in blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        blocks, dim, source, adjoint = ctx.settings
        result = cast(Tensor, _Band.apply(gradients[0], blocks, dim, source, not adjoint))
        return result, None, None, None, None


def _product(images: Tensor, matrix: Tensor, dim: int) -> Tensor:
    return images @ matrix if dim == -1 else matrix.mT @ images


def _spread(outputs: Tensor, blocks: tuple[_Block, ...], dim: int, source: int) -> Tensor:
    shape = list(outputs.shape)
    shape[dim] = source
    images = outputs.new_zeros(shape)
    for b in blocks:
        part = _product(outputs.narrow(dim, b.begin, b.width), b.matrix.mT, dim)
        images.narrow(dim, b.first, b.span).add_(part)
    return images


def resize(
    images: Tensor, rows: Axis, columns: Axis, interpolation: str, fill: float = 0.0
) -> Tensor:
    """(..., H, W) -> (..., h, w) in floating point: Pillow's weights, nothing rounded or clipped.

    Linear in the images; padding is `fill`. Matrices are cached by size, type and device.
    """
    images = _along(images, columns, interpolation, -1)  # (..., H, w)
    images = _along(images, rows, interpolation, -2)  # (..., h, w)
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
        work = _to_byte(_along(work, rows, interpolation, -2))  # (..., h, W)
        work = _to_byte(_along(work, columns, interpolation, -1))  # (..., h, w)
    else:
        work = _to_byte(_along(work, columns, interpolation, -1))  # (..., H, w)
        work = _to_byte(_along(work, rows, interpolation, -2))  # (..., h, w)
    return _pad(work, rows, columns, fill).to(pixels.dtype)


def _vertical_first(rows: Axis, columns: Axis) -> bool:
    """Whether Pillow takes the vertical pass first, which rounds differently.

    Pillow 13 does when the height shrinks by more than twice as many pixels as the width (pull
    request 9549; the factor was read off 2,700 pairs of sizes); earlier ones never do.
    """
    shrink = rows.source - rows.target
    return _PILLOW >= 13 and shrink > max(0, 2 * (columns.source - columns.target))


def _along(images: Tensor, axis: Axis, interpolation: str, dim: int) -> Tensor:
    if axis.source == axis.target:  # Pillow skips the pass
        low, high = axis.kept
        return images.narrow(dim, low, high - low)
    blocks = _blocks(axis, interpolation, images.dtype, images.device)
    return cast(Tensor, _Band.apply(images, blocks, dim, axis.source, False))


def _to_byte(values: Tensor) -> Tensor:
    """Pillow's clip8: half rounds up; the gradient passes the rounding as if it were not there."""
    rounded = values.detach().add(0.5).floor_()
    if not values.requires_grad:
        return rounded.clamp_(0, 255)
    return (rounded + (values - values.detach())).clamp(0, 255)


def _pad(images: Tensor, rows: Axis, columns: Axis, fill: float) -> Tensor:
    sides = (*columns.padding, *rows.padding)
    return torch.nn.functional.pad(images, sides, value=fill) if any(sides) else images
