"""The picture that a run starts from, and what is to become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from clipguide.images import load_image


@dataclass(frozen=True)
class Start:
    """Image-to-image, inpainting and editing, as settings.

    Attributes:
        image: the picture's file; None: from noise.
        strength: how much of the noise is put on it, in (0, 1]; None: the pipeline's own.
        mask: a file, white where the picture may change; None: everywhere.
        edit: "SOURCE -> TARGET": what the picture shows, and what it shall show.

    Raises: ValueError for a value out of range, or any of the others without a picture.
    """

    image: str | None = None
    strength: float | None = None
    mask: str | None = None
    edit: str | None = None

    def __post_init__(self) -> None:
        for name in ("strength", "mask", "edit"):
            if self.image is None and getattr(self, name) is not None:
                raise ValueError(f"got {_FLAGS[name]} without --init, expected a picture too")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"got --strength-init {self.strength}, expected a number in (0, 1]")
        if self.edit is not None:
            parse_edit(self.edit)


_FLAGS = {"strength": "--strength-init", "mask": "--mask", "edit": "--edit"}


def parse_edit(text: str) -> tuple[str, str]:
    """Source and target of "SOURCE -> TARGET".

    Raises: ValueError for anything else.

    Example:
        >>> parse_edit("a red fox -> a white fox")
        ('a red fox', 'a white fox')
    """
    source, arrow, target = (part.strip() for part in text.partition("->"))
    if not (source and arrow and target) or "->" in target:
        raise ValueError(f"got --edit {text!r}, expected 'SOURCE -> TARGET'")
    return source, target


@dataclass(frozen=True)
class StartPictures:
    """The files of a `Start`, read.

    Attributes:
        image: RGB.
        mask: one channel, white where it may change; None: everywhere.
    """

    image: Image.Image
    mask: Image.Image | None

    def arguments(self, size: tuple[int, int] | None) -> dict[str, Any]:
        """Of a pipeline call, brought to (width, height); None: the picture's own size."""
        given: dict[str, Any] = {"image": _resized(self.image, size, Image.Resampling.LANCZOS)}
        if self.mask is not None:
            own = given["image"].size
            given["mask_image"] = _resized(self.mask, own, Image.Resampling.NEAREST)
        return given


def load_start(start: Start) -> StartPictures | None:
    """The pictures, or None for a run that starts from noise. ImageError: a file that cannot be
    read."""
    if start.image is None:
        return None
    mask = None if start.mask is None else load_image(start.mask).convert("L")
    return StartPictures(load_image(start.image), mask)


def _resized(
    image: Image.Image, size: tuple[int, int] | None, how: Image.Resampling
) -> Image.Image:
    return image if size is None or image.size == size else image.resize(size, how)
