"""From images in [0, 1] to the pixels a CLIP was trained on, differentiable.

Resize, centre crop, mean and standard deviation, each as the checkpoint's own library does it.
`match="pil"` gives, bit for bit, the 8-bit pixels of the official preprocessing (which works on PIL
images); `match="smooth"` applies the same weights without rounding to 8 bits, for gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.resize import FILTERS, Axis, resize, resize_as_pil

Match = Literal["pil", "smooth"]
Size = tuple[int, int]  # (height, width)

MAX_SIDE = 2**15
"""Pixels on a side that a model can be said to see; those that are known see up to 1,024."""
_LARGE = 2**24  # a resize to more pixels than this is done on the crop alone


def _shortest(source: Size, size: Size) -> Size:
    """The shorter side becomes `size[0]`, the longer is truncated (torchvision, transformers)."""
    short, long = min(source), max(source)
    scaled = int(size[0] * long / short)
    return (size[0], scaled) if source[0] <= source[1] else (scaled, size[0])


def _cover(source: Size, size: Size) -> Size:
    """Aspect kept, no side smaller than the target (open_clip, non-square models)."""
    ratio = min(source[0] / size[0], source[1] / size[1])
    return max(round(source[0] / ratio), 1), max(round(source[1] / ratio), 1)


def _contain(source: Size, size: Size) -> Size:
    """Aspect kept, no side larger than the target (open_clip `longest`)."""
    ratio = max(source[0] / size[0], source[1] / size[1])
    return max(round(source[0] / ratio), 1), max(round(source[1] / ratio), 1)


def _squash(_source: Size, size: Size) -> Size:
    """Exactly the target, aspect lost (SigLIP)."""
    return size


def _keep(source: Size, _size: Size) -> Size:
    return source


RESIZES: dict[str, Callable[[Size, Size], Size]] = {
    "shortest": _shortest,
    "cover": _cover,
    "contain": _contain,
    "squash": _squash,
    "keep": _keep,
}
"""Name -> (source size, `size`) -> size after the resize."""

CENTERS: dict[str, Callable[[int], int]] = {
    "half_even": lambda margin: round(margin / 2),  # torchvision: int(round(margin / 2.0))
    "floor": lambda margin: margin // 2,  # transformers
}
"""Name -> (pixels to cut away) -> pixels cut away before the crop."""


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Preprocess:
    """The preprocessing of one checkpoint.

    Attributes:
        size: target (height, width) of the resize; for "shortest" both are the shorter side.
        crop: (height, width) of the centre crop, what the model sees; None keeps the resized image.
        mean, std: per channel, of values in [0, 1].
        resize: one of `RESIZES`.
        interpolation: one of `FILTERS`.
        center: one of `CENTERS`, how an odd margin is split.
        fill: 0..255, what is around an image smaller than the crop.

    Example:
        >>> half = (0.5, 0.5, 0.5)
        >>> preprocess = Preprocess(size=(224, 224), crop=(224, 224), mean=half, std=half)
        >>> preprocess(torch.rand(2, 3, 480, 640)).shape
        torch.Size([2, 3, 224, 224])
    """

    size: Size
    crop: Size | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: str = "shortest"
    interpolation: str = "bicubic"
    center: str = "half_even"
    fill: int = 0

    def __post_init__(self) -> None:
        tables = {"resize": RESIZES, "interpolation": FILTERS, "center": CENTERS}
        for name, table in tables.items():
            if (value := getattr(self, name)) not in table:
                raise ValueError(f"got {name} {value!r}, expected one of {[*table]}")
        pairs = (self.size, self.size if self.crop is None else self.crop)
        if not all(len(pair) == 2 and all(_whole(n, 1, MAX_SIDE) for n in pair) for pair in pairs):
            raise ValueError(
                f"got size {self.size} and crop {self.crop}, expected pairs of whole numbers of "
                f"1 to {MAX_SIDE}"
            )
        for name in ("mean", "std"):
            value: Sequence[object] = getattr(self, name)
            if len(value) != 3 or not all(map(_finite, value)):
                raise ValueError(f"got {name} {value}, expected three finite numbers")
        if min(self.std) <= 0:
            raise ValueError(f"got std {self.std}, expected positive values")
        if not _whole(self.fill, 0, 255):
            raise ValueError(f"got fill {self.fill!r}, expected a whole number from 0 to 255")

    def __call__(self, images: Tensor, match: Match = "pil") -> Tensor:
        """(B,3,H,W) in [0, 1] -> normalised (B,3,h,w); differentiable in the images.

        `match="pil"`: the images are rounded to 8 bits and the resize is Pillow's own, so the
        result is the one of the saved image; gradients pass the roundings straight through.
        `match="smooth"`: the same resampling weights without rounding or clipping, linear.
        float64 stays float64; every other type becomes float32.
        """
        if match not in ("pil", "smooth"):
            raise ValueError(f"got match {match!r}, expected 'pil' or 'smooth'")
        if images.dtype != torch.float64:
            images = images.float()
        rows, columns = self.axes((images.shape[-2], images.shape[-1]))
        if match == "smooth":
            pixels = resize(images, rows, columns, self.interpolation, self.fill / 255)
        else:
            scaled = images * 255
            whole = scaled.detach().round().clamp(0, 255) + (scaled - scaled.detach())
            pixels = resize_as_pil(whole, rows, columns, self.interpolation, self.fill) / 255
        return self.normalize(pixels)

    def from_pil(self, image: Image.Image) -> Tensor:
        """An RGB image -> (3,h,w) uint8, before `normalize`: resized by Pillow itself.

        The same bytes as `__call__(..., match="pil")`, faster for large images.
        """
        rows, columns = self.axes((image.height, image.width))
        if rows.target * columns.target > _LARGE:  # extreme aspect: compute the crop alone
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
            pixels = resize_as_pil(pixels, rows, columns, self.interpolation, self.fill)
            return pixels.to(torch.uint8)
        resized = image.resize((columns.target, rows.target), _PIL_FILTERS[self.interpolation])
        box = (columns.kept[0], rows.kept[0], columns.kept[1], rows.kept[1])
        canvas = Image.new("RGB", (columns.length, rows.length), (self.fill,) * 3)
        canvas.paste(resized.crop(box), (columns.padding[0], rows.padding[0]))
        return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, h, w) in [0, 1] -> (pixels - mean) / std per channel."""
        mean, std = _statistics(self.mean, self.std, pixels.dtype, pixels.device)
        return (pixels - mean) / std

    def axes(self, source: Size) -> tuple[Axis, Axis]:
        """Where the pixels of an image of (height, width) go: rows and columns."""
        target = RESIZES[self.resize](source, self.size)
        crop = self.crop or target
        rows, columns = (self._axis(*lengths) for lengths in zip(source, target, crop, strict=True))
        return rows, columns

    def _axis(self, source: int, target: int, crop: int) -> Axis:
        # An image smaller than the crop is padded first: the smaller half goes before (both
        # libraries' torchvision code), which is floor division of the margin.
        margin = target - crop
        start = CENTERS[self.center](margin) if margin >= 0 else -(-margin // 2)
        return Axis(source, target, start, start + crop)


_PIL_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@lru_cache(maxsize=64)
@ordinary_tensors()
def _statistics(
    mean: tuple[float, ...], std: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    def channels(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)

    return channels(mean), channels(std)
