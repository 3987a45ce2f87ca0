"""Where in a picture a phrase is: how much its cosine falls when a place is covered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clipguide.clip.scorer import Scorer
from clipguide.images import ImageSource, load_image

WINDOW = 0.4
"""Side of a cover, of the picture's shorter side."""
STEP = 0.1
"""From one cover to the next, the same way."""
BATCH = 64
"""Covered pictures that are in memory at once."""


def similarity_map(
    scorer: Scorer, image: ImageSource, phrase: str, *, window: float = WINDOW, step: float = STEP
) -> Tensor:
    """(H, W) float32: how much the cosine with the phrase falls when a pixel's place is covered.

    Occlusion sensitivity (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2): a
    square of the picture's median colour is moved over it, and a pixel has the mean fall of the
    covers that hide it, those in whose middle it lies counting more. Above 0 the place speaks for
    the phrase, below 0 against it. It asks nothing of the scorer but scores, so it holds for every
    CLIP, whatever its image tower is made of; what it is not is sharp: nothing finer than `step`
    is told apart.

    Args:
        scorer: of images.
        image: a picture.
        phrase: what is looked for.
        window: side of a cover in (0, 1], of the shorter side.
        step: distance of covers in (0, window], of the shorter side.

    Cost: an image embedding for each cover: 49 for a square picture, and one more.

    Raises:
        ValueError: an empty phrase, a window or step out of range; `ImageError` for no picture.

    Example:
        >>> similarity_map(scorer, Image.new("RGB", (40, 30)), "a red star").shape
        torch.Size([30, 40])
    """
    if not 0 < window <= 1:
        raise ValueError(f"got window {window}, expected a number in (0, 1]")
    if not 0 < step <= window:
        raise ValueError(f"got step {step}, expected a number in (0, {window}], the window")
    picture = load_image(image)
    short = min(picture.size)
    side = max(1, round(window * short))
    places = [
        (left, top)
        for top in _starts(picture.height, side, step * short)
        for left in _starts(picture.width, side, step * short)
    ]
    falls = _falls(scorer, picture, phrase, [(x, y, x + side, y + side) for x, y in places])
    ramp = 1 - (torch.arange(side) + 0.5 - side / 2).abs() / (side / 2 + 0.5)
    weight = ramp[:, None] * ramp
    total = torch.zeros(picture.height, picture.width)
    weights = torch.zeros_like(total)
    for (x, y), fall in zip(places, falls, strict=True):
        total[y : y + side, x : x + side] += fall * weight
        weights[y : y + side, x : x + side] += weight
    return total / weights


def _falls(
    scorer: Scorer, picture: Image.Image, phrase: str, boxes: list[tuple[int, int, int, int]]
) -> Tensor:
    """(N,): how much the cosine falls when each box is covered."""
    median = tuple(int(value) for value in np.median(np.asarray(picture), axis=(0, 1)))
    found = [scorer.score([picture], phrase)]
    for start in range(0, len(boxes), BATCH):
        covered: list[Image.Image] = []
        for box in boxes[start : start + BATCH]:
            one = picture.copy()
            one.paste(median, box)
            covered.append(one)
        found.append(scorer.score(covered, phrase))
    whole, *others = torch.cat(found).float().cpu()
    return whole - torch.stack(others)


def _starts(length: int, side: int, step: float) -> Iterator[int]:
    """Where windows begin: at both ends, and about `step` apart between."""
    room = length - side
    count = max(1, round(room / step)) if room else 0
    for place in range(count + 1):
        yield round(place * room / count) if count else 0


def shade(image: Image.Image, values: Tensor) -> Image.Image:
    """The picture in grey and dark where the map is low, as it is where the map is highest.

    Args:
        image: the picture.
        values: (H, W) of any range; a map without any difference shades nothing.
    """
    low, high = values.min(), values.max()
    share = (values - low) / (high - low) if high > low else torch.ones_like(values)
    small = functional.interpolate(share[None, None], size=image.size[::-1], mode="bilinear")
    light = small[0, 0].clamp(0, 1) ** 2
    mask = Image.fromarray(light.mul(255).round().to(torch.uint8).numpy())
    dark = image.convert("L").point([value * 2 // 5 for value in range(256)]).convert("RGB")
    return Image.composite(image.convert("RGB"), dark, mask)
