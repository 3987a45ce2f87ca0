"""Images in every form a person has them in, as what a scorer reads: sources, or one tensor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence, Sized
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipguide.images import ImageSource, check_images

Array: TypeAlias = NDArray[Any]
Images: TypeAlias = Tensor | Array | ImageSource | Sequence[ImageSource | Tensor | Array]
"""A float tensor (B,3,H,W) in [0, 1]; an array (H,W,3) or (B,H,W,3), uint8 or floats in [0, 1]; a
PIL image or a path; or a list of PIL images, paths, tensors (3,H,W) and arrays (H,W,3)."""

_FORMS = "a PIL image, a path, a tensor (3, H, W) or an array (H, W, 3)"


def as_images(images: Images) -> Tensor | list[ImageSource | Tensor]:
    """One tensor (B,3,H,W), or a list of PIL images, paths and tensors (1,3,H,W).

    A tensor is returned as it is; a list of tensors of one shape is joined, and stays
    differentiable. Values of arrays and of tensors in a list are checked; nothing is rescaled.

    Raises:
        ValueError: no images, another type or shape, or values outside [0, 1] (0 to 255 of uint8).
    """
    if isinstance(images, Tensor):
        return images
    if isinstance(images, np.ndarray):
        return _of_array(images, "images")
    if isinstance(images, (Image.Image, str, os.PathLike)):
        return [images]
    listed = [_one(image, place) for place, image in enumerate(_iterated(images))]
    if not listed:
        raise ValueError("got no images, expected one or more")
    tensors = [image for image in listed if isinstance(image, Tensor)]
    if len(tensors) == len(listed) and len({tensor.shape for tensor in tensors}) == 1:
        return torch.cat(tensors)
    return listed


def count_images(images: Images) -> int:
    """How many there are, without looking at them."""
    if isinstance(images, (Image.Image, str, os.PathLike)):
        return 1
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return 1
    given = cast(object, images)
    if not isinstance(given, Sized):
        raise ValueError(f"got images of type {type(given).__name__}, expected a list of {_FORMS}")
    return len(given)


def name_of(image: object, place: int) -> str:
    """What to call an image in a message: its path, or its place among those given."""
    return f"image {image if isinstance(image, str | os.PathLike) else place}"


def _iterated(images: object) -> Iterable[object]:
    if not isinstance(images, Iterable):
        raise ValueError(f"got images of type {type(images).__name__}, expected {_FORMS}")
    return cast("Iterable[object]", images)


def _one(image: object, place: int) -> ImageSource | Tensor:
    if isinstance(image, (Image.Image, str, os.PathLike)):
        return cast(ImageSource, image)
    name = f"image {place}"
    if isinstance(image, np.ndarray):
        array = cast(Array, image)
        if array.ndim != 3:
            raise ValueError(f"{name}: got an array of shape {array.shape}, expected (H, W, 3)")
        found = _of_array(array, name)
        return found if isinstance(found, Tensor) else found[0]
    if not isinstance(image, Tensor):
        raise ValueError(f"{name}: got {type(image).__name__}, expected {_FORMS}")
    if image.ndim != 3:
        raise ValueError(f"{name}: got a tensor of {tuple(image.shape)}, expected (3, H, W)")
    return _checked(image.unsqueeze(0), name)


def _of_array(array: Array, name: str) -> Tensor | list[ImageSource | Tensor]:
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"{name}: got an array of shape {array.shape}, expected (H, W, 3) or (B, H, W, 3)"
        )
    batch = array[None] if array.ndim == 3 else array
    if batch.dtype == np.uint8:
        return [Image.fromarray(np.ascontiguousarray(one)) for one in batch]
    if not np.issubdtype(batch.dtype, np.floating):
        raise ValueError(f"{name}: got an array of {batch.dtype}, expected uint8, or floats [0, 1]")
    pixels = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
    return _checked(pixels.permute(0, 3, 1, 2), name)


def _checked(images: Tensor, name: str) -> Tensor:
    try:
        check_images(images)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return images
