"""What frozen backbones, or their frozen blocks, make of images and texts, kept on disk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from clipguide.clip.backbones import config_of
from clipguide.clip.feature_cache import FeatureCache, content_key, fingerprint
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.settings_hash import hash_values
from clipguide.clip.trainable import Tower, TrainableClip
from clipguide.clip.weights import hash_weights
from clipguide.data.pairs import Picture
from clipguide.images import ImageError
from clipguide.training.frozen_prefix import FrozenPrefix

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


@dataclass(frozen=True)
class Stage:
    """What of a tower is kept.

    Attributes:
        encode: inputs -> rows (B, ...).
        parts: all that decides the rows, by name; with the view, it is their fingerprint.
        dtype: what the rows are kept as.
        ragged: whether the row of a text ends with its last token.
    """

    encode: Callable[..., Tensor]
    parts: Mapping[str, object]
    dtype: torch.dtype = torch.float32
    ragged: bool = False


def image_stage(model: TrainableClip) -> Stage:
    """The whole image tower: features before the head."""
    parts = {"weights": hash_weights(model.image), "pooling": model.image.pooling}
    parts["settings"] = _settings(model.image)
    return Stage(model.image, {"kind": "image", "preprocess": model.preprocess, **parts})


def text_stage(model: TrainableClip) -> Stage:
    """The whole text tower: features before the head."""
    parts = {"weights": hash_weights(model.text), "pooling": model.text.pooling}
    parts["settings"] = _settings(model.text)
    return Stage(model.text, {"kind": "text", **parts, **_reading(model)})


def image_prefix_stage(model: TrainableClip, prefix: FrozenPrefix, dtype: torch.dtype) -> Stage:
    """The image tower up to its live blocks."""
    parts = {"kind": "image prefix", "weights": prefix.mark, "dtype": dtype}
    parts["settings"] = _settings(model.image)
    return Stage(prefix.run, {**parts, "preprocess": model.preprocess}, dtype)


def text_prefix_stage(model: TrainableClip, prefix: FrozenPrefix, dtype: torch.dtype) -> Stage:
    """The text tower up to its live blocks."""
    parts = {"kind": "text prefix", "weights": prefix.mark, "dtype": dtype}
    parts["settings"] = _settings(model.text)
    return Stage(prefix.run, {**parts, **_reading(model)}, dtype, ragged=True)


def _settings(tower: Tower) -> str:
    """What of a backbone's configuration is known: the same weights compute otherwise by another
    activation or number of heads."""
    known = hasattr(tower.model, "config")  # a tower of open_clip has none
    return hash_values(**config_of(tower.model)) if known else ""


def _reading(model: TrainableClip) -> dict[str, int]:
    return {"context": model.context_length, "vocabulary": model.vocabulary}


@dataclass(frozen=True)
class Look:
    """What is made of a picture, and how it is shown.

    Attributes:
        stage: takes normalised pixels; what is kept.
        preprocess: from the picture to them.
        device: where they are wanted.
    """

    stage: Stage
    preprocess: Preprocess
    device: torch.device


def picture_rows(
    look: Look,
    pictures: Sequence[Picture],
    folder: Path,
    view: int = 0,
    progress: Progress = iter,
) -> tuple[list[Tensor], list[int], list[ImageError]]:
    """Rows of the readable pictures, from the cache where they are in it.

    Args:
        look: what is kept.
        pictures: the images.
        folder: of the cache.
        view: which of the views of `random_view`.
        progress: wraps the batches.

    Returns:
        N' rows, the positions they belong to, and why each of the others cannot be read.
        **Cost**: one pass of the stage for each picture that is not in the cache.
    """
    stage = look.stage
    keys = [picture.key() for picture in pictures]
    bad: list[ImageError] = []
    seen = {"view": f"{view} of area {MIN_AREA}"} if view else {}
    cache = FeatureCache(folder, fingerprint(**stage.parts, **seen), stage.dtype)

    def compute(places: list[int]) -> dict[int, Tensor]:
        pixels: dict[int, Tensor] = {}
        for place in places:
            try:
                image = random_view(pictures[place].load(), keys[place], view)
            except ImageError as error:
                bad.append(error)
                continue
            pixels[place] = look.preprocess.from_pil(image)
        if not pixels:
            return {}
        batch = torch.stack([*pixels.values()]).to(look.device).float().div(255)
        with torch.no_grad():
            rows = stage.encode(look.preprocess.normalize(batch))
        return dict(zip(pixels, rows, strict=True))

    cache.fill(keys, compute, IMAGE_BATCH, progress)
    kept = [place for place, key in enumerate(keys) if key in cache]
    return cache.each([keys[place] for place in kept]), kept, bad


def image_rows(
    model: TrainableClip,
    stage: Stage,
    pictures: Sequence[Picture],
    folder: Path,
    view: int = 0,
    progress: Progress = iter,
) -> tuple[list[Tensor], list[int], list[ImageError]]:
    """`picture_rows` of a stage of a model's image tower, shown as the model is."""
    model.image.eval()
    look = Look(stage, model.preprocess, model.device)
    return picture_rows(look, pictures, folder, view, progress)


def text_rows(
    model: TrainableClip,
    stage: Stage,
    texts: Sequence[str],
    folder: Path,
    progress: Progress = iter,
) -> list[Tensor]:
    """Rows of texts, from the cache where they are in it.

    **Cost**: one pass of the text encoder for each text that is not in the cache, texts of like
    length together.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), texts[place]))
    keys = [content_key(text.encode()) for text in texts]
    cache = FeatureCache(folder, fingerprint(**stage.parts), stage.dtype)

    def compute(places: list[int]) -> dict[int, Tensor]:
        tokens = model.tokenize([texts[order[place]] for place in places])
        model.text.eval()
        with torch.no_grad():
            rows = stage.encode(tokens["input_ids"], tokens["attention_mask"])
        if not stage.ragged:
            return dict(zip(places, rows, strict=True))
        real = tokens["attention_mask"].bool()
        found = zip(places, rows, real, strict=True)
        return {place: row[mask] for place, row, mask in found}

    cache.fill([keys[place] for place in order], compute, TEXT_BATCH, progress)
    return cache.each(keys)


def image_features(
    model: TrainableClip,
    pictures: Sequence[Picture],
    folder: Path,
    view: int = 0,
    progress: Progress = iter,
) -> tuple[Tensor, list[int], list[ImageError]]:
    """`image_rows` of the whole tower, as one tensor (N', F)."""
    rows, kept, bad = image_rows(model, image_stage(model), pictures, folder, view, progress)
    return torch.stack(rows), kept, bad


def text_features(
    model: TrainableClip, texts: Sequence[str], folder: Path, progress: Progress = iter
) -> Tensor:
    """`text_rows` of the whole tower, as one tensor (N, F)."""
    return torch.stack(text_rows(model, text_stage(model), texts, folder, progress))
