"""Scores of a judge without vectors for rated pairs of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.cli.output import note

if TYPE_CHECKING:
    from torch import Tensor


def judged(
    model: Any, images: Path, rated: Sequence[Any]
) -> tuple[list[Any], Tensor, list[str], list[dict[str, str]]]:
    """What a cross-encoder gives each pair, an image with all of its texts at once, with a bar.

    Returns:
        The pairs whose image can be read, their numbers (N,), the images, and why each of the
        others cannot be read.
    """
    import torch
    from tqdm import tqdm

    from clipguide.images import ImageError, load_image

    by_image: dict[str, list[Any]] = {}
    for pair in rated:
        by_image.setdefault(pair.image, []).append(pair)
    kept: list[Any] = []
    bad: list[dict[str, str]] = []
    found: list[Tensor] = []
    for name, pairs in tqdm(by_image.items(), unit="image", leave=False, delay=1.0):
        try:
            image = load_image(images / name)
        except ImageError as error:
            bad.append({"image": str(images / name), "reason": error.reason})
            note(f"clipguide: skipped {images / name}: {error.reason}")
            continue
        found += model.score_each([image], [[pair.text for pair in pairs]])
        kept += pairs
    shown = list(dict.fromkeys(pair.image for pair in kept))
    return kept, torch.cat(found) if found else torch.empty(0), shown, bad
