"""Cached features of images and texts under the frozen backbones of a dual encoder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipguide.clip.dual_encoder import DualEncoder
from clipguide.clip.scorer import hash_weights
from clipguide.data.pairs import Picture
from clipguide.images import ImageError
from clipguide.training.feature_cache import FeatureCache, content_key, fingerprint

IMAGE_BATCH = 16
TEXT_BATCH = 64
MIN_AREA = 0.5
"""Smallest share of an image that a random view shows."""

Progress = Callable[[Iterable[Any]], Iterable[Any]]


def random_view(image: Image.Image, key: str, view: int) -> Image.Image:
    """View 0 is the image; view k > 0 a random crop, half of them mirrored, decided by its content.

    The crop keeps the aspect and shows between `MIN_AREA` and all of the area.
    """
    if view == 0:
        return image
    rng = random.Random(f"{key}:{view}")
    side = rng.uniform(MIN_AREA, 1.0) ** 0.5
    width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if rng.random() < 0.5 else crop


def image_features(
    model: DualEncoder,
    pictures: Sequence[Picture],
    folder: Path,
    view: int = 0,
    progress: Progress = iter,
) -> tuple[Tensor, list[int], list[ImageError]]:
    """Features of the readable images before the head, from the cache where they are in it.

    Args:
        pictures: the images.
        folder: of the cache.
        view: which of the views of `random_view`.
        progress: wraps the batches.

    Returns:
        (N', F) features, the positions they belong to, and why each of the others cannot be read.
        **Cost**: one pass of the image encoder for each image that is not in the cache.
    """
    keys = [picture.key() for picture in pictures]
    bad: list[ImageError] = []
    weights, preprocess = hash_weights(model.image), model.preprocess
    parts = {"weights": weights, "pooling": model.image.pooling, "preprocess": preprocess}
    if view:
        parts |= {"view": f"{view} of area {MIN_AREA}"}
    cache = FeatureCache(folder, fingerprint(kind="image", **parts))

    def compute(places: list[int]) -> dict[int, Tensor]:
        pixels: dict[int, Tensor] = {}
        for place in places:
            try:
                image = random_view(pictures[place].load(), keys[place], view)
            except ImageError as error:
                bad.append(error)
                continue
            pixels[place] = preprocess.from_pil(image)
        if not pixels:
            return {}
        batch = torch.stack([*pixels.values()]).to(model.device).float().div(255)
        with torch.no_grad():
            rows: Tensor = model.image.eval()(preprocess.normalize(batch))
        return dict(zip(pixels, rows, strict=True))

    cache.fill(keys, compute, IMAGE_BATCH, progress)
    kept = [place for place, key in enumerate(keys) if key in cache]
    return cache.rows([keys[place] for place in kept]), kept, bad


def text_features(
    model: DualEncoder, texts: Sequence[str], folder: Path, progress: Progress = iter
) -> Tensor:
    """(N, F) features of texts before the head, from the cache where they are in it.

    **Cost**: one pass of the text encoder for each text that is not in the cache, texts of like
    length together.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place]))
    keys = [content_key(text.encode()) for text in texts]
    mark = fingerprint(
        kind="text",
        weights=hash_weights(model.text),
        pooling=model.text.pooling,
        context=model.context_length,
        vocabulary=len(model.tokenizer),
    )
    cache = FeatureCache(folder, mark)

    def compute(places: list[int]) -> dict[int, Tensor]:
        chosen = [order[place] for place in places]
        with torch.no_grad():
            rows: Tensor = model.text.eval()(**model.tokenize([texts[i] for i in chosen]))
        return dict(zip(places, rows, strict=True))

    cache.fill([keys[place] for place in order], compute, TEXT_BATCH, progress)
    return cache.rows(keys)
