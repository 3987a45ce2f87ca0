"""Images from anywhere, as 8-bit RGB: safe loading, and PIL <-> (B,3,H,W) tensors in [0, 1].

Every failure to read an image is one exception, `ImageError`, that names the file and the reason.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ImageSource = Image.Image | str | os.PathLike[str]

FORMATS = {
    "PNG": (".png", ".apng"),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif",),
}
"""Formats that are opened, and their suffixes; Pillow's other decoders never see a file."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
MAX_PIXELS = 2**26
"""Largest image that is decoded, 67 megapixels: 268 MB in memory."""
RANGE_TOLERANCE = 1e-3
"""How far outside [0, 1] rounding may have carried a tensor's values."""

_MODES_16BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_SUMMARY = 160  # characters of a foreign error message that are kept


class ImageError(ValueError):
    """An image cannot be read. `source` is its path (or "image in memory"), `reason` says why."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return type(self), (self.source, self.reason)


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read one image as 8-bit RGB, the way a person would see it.

    EXIF rotation is applied; transparency is laid over white; palettes are resolved; 16-bit values
    are scaled by 1/257 and rounded; floating-point pixels in [0, 1] by 255; CMYK is converted
    without a colour profile. An animation gives its first frame. A PIL image that needs none of
    this is returned as it is.

    Args:
        source: a path, or a PIL image in any mode.
        max_pixels: refuse more than this many pixels before decoding them.

    Raises:
        ImageError: missing, unreadable, empty, not a regular file, not one of `FORMATS`, corrupt or
            truncated, too large, or with values whose range is unknown. Nothing else escapes.

    Example:
        >>> load_image("photo.jpg").mode
        'RGB'
    """
    if isinstance(source, Image.Image):
        return _guarded("image in memory", source, max_pixels)
    name = os.fspath(source)
    try:
        _check_regular(name)
        # Pillow warns of large images and of odd metadata; the pixel cap and ImageError say it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(name, formats=list(FORMATS))
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error, KeyError ...
        raise ImageError(name, _reason(error)) from error
    with image:
        return _guarded(name, image, max_pixels)


def _check_regular(name: str) -> None:
    status = Path(name).stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited on for ever
        raise ImageError(name, "not a regular file")
    if status.st_size == 0:
        raise ImageError(name, "the file is empty")


def _guarded(name: str, image: Image.Image, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        reason = f"got {width}x{height} = {width * height} pixels, expected at most {max_pixels}"
        raise ImageError(name, reason)
    if width * height == 0:
        raise ImageError(name, f"got {width}x{height}, expected at least one pixel")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
            return _to_rgb(name, _upright(image))
    except ImageError:
        raise
    except Exception as error:  # see load_image
        raise ImageError(name, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in one of the formats {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = " ".join(str(error).split()) or type(error).__name__
    return f"cannot be decoded ({text[:_SUMMARY]})"


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; unreadable EXIF counts as none."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image  # exif_transpose always copies
    except Exception:  # malformed EXIF raises many kinds; the pixels are still good
        return image


def _to_rgb(name: str, image: Image.Image) -> Image.Image:
    if image.mode in _MODES_16BIT:
        image = _from_16bit(name, image)
    elif image.mode == "F":
        image = _from_float(name, image)
    if image.mode in ("P", "PA") and image.palette is None:
        raise ImageError(name, "its pixels refer to a palette that is missing")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16bit(name: str, image: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(name, f"got integer values in [{low}, {high}], expected [0, 65535]")
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    key: object = image.info.get("transparency")
    if isinstance(key, int):  # one grey value of a 16-bit PNG stands for "transparent"
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _from_float(name: str, image: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.asarray(image)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        reason = f"got floating-point values in [{values.min()}, {values.max()}], expected [0, 1]"
        raise ImageError(name, reason)
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def list_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files that `paths` stand for, in order, each once.

    A folder stands for every regular file below it whose name ends in one of `SUFFIXES`, sorted by
    path, hidden names (".x") left out, links to folders not followed. Anything else stands for
    itself, whatever its name, even if it is not there: loading it says what is wrong.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        for image in _walk(path) if path.is_dir() else [path]:
            found[image] = None
    return list(found)


def _walk(folder: Path) -> list[Path]:
    images: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(root, name)
            if not name.startswith(".") and path.suffix.lower() in SUFFIXES and path.is_file():
                images.append(path)
    return sorted(images, key=lambda path: path.as_posix())


def to_tensor(images: Image.Image | Sequence[Image.Image]) -> Tensor:
    """PIL images of one size as a (B,3,H,W) float32 tensor in [0, 1], on the CPU.

    Modes other than RGB are converted as `load_image` does.

    Raises:
        ValueError: no images, or images of different sizes.
    """
    import torch

    batch = [images] if isinstance(images, Image.Image) else list(images)
    sizes = sorted({image.size for image in batch})
    if len(sizes) != 1:
        raise ValueError(f"got images of sizes {sizes}, expected one or more of a single size")
    arrays = [np.asarray(load_image(image)) for image in batch]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)  # (B,3,H,W)
    return pixels.contiguous().float().div(255)


def to_pil(images: Tensor) -> list[Image.Image]:
    """A (B,3,H,W) tensor in [0, 1] as PIL images, 255 * value rounded half to even.

    Raises:
        ValueError: not an image batch (see `check_images`).
    """
    import torch

    check_images(images)
    pixels = images.detach().float().mul(255).round().clamp(0, 255).to(torch.uint8)
    arrays: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).cpu().numpy()  # (B,H,W,3)
    return [Image.fromarray(array) for array in arrays]


def check_images(images: Tensor) -> None:
    """Refuse a tensor that is not a batch of images: (B,3,H,W), floating point, in [0, 1].

    A range that cannot be right (0..255, -1..1) is an error and never rescaled. Waits for the
    device.

    Raises:
        ValueError: what was got, what was expected.
    """
    check_image_shape(images)
    if not bool(images.isfinite().all()):
        raise ValueError("got images with NaN or infinite values, expected values in [0, 1]")
    low, high = (float(value) for value in images.detach().aminmax())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(f"got image values in [{low:.4g}, {high:.4g}], expected [0, 1]")


def check_image_shape(images: Tensor) -> None:
    """The part of `check_images` that does not look at the values, nor wait for the device.

    Raises:
        ValueError: what was got, what was expected.
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"got images of shape {tuple(images.shape)}, expected (B, 3, H, W)")
    if not images.is_floating_point():
        raise ValueError(f"got images of type {images.dtype}, expected floating point in [0, 1]")


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of the size and the RGB bytes: the same for every file format without loss."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
