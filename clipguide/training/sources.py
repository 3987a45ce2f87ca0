"""Where the rows of a run come from: kept features, kept states of frozen blocks, or backbones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipguide.batching import batches
from clipguide.clip.trainable import TrainableClip
from clipguide.data.pairs import Pairs
from clipguide.training.batches import (
    Rows,
    cached,
    live_images,
    live_texts,
    tail_images,
    tail_texts,
)
from clipguide.training.config import TrainSettings
from clipguide.training.features import (
    TEXT_BATCH,
    Stage,
    image_prefix_stage,
    image_rows,
    image_stage,
    text_prefix_stage,
    text_rows,
    text_stage,
)
from clipguide.training.frozen_prefix import FrozenPrefix


class Sources:
    """Rows of images and of texts, as the settings say.

    Args:
        model: its backbones as they are before the first step.
        settings: what trains, and what is kept.
        folder: of the cache.
        note: receives what was left out of the data, a line each.
        progress: wraps batches of features that are computed, with a description.

    Raises:
        ValueError: a backbone whose frozen blocks cannot be kept.
    """

    def __init__(
        self, model: TrainableClip, settings: TrainSettings, folder: Path,
        note: Callable[[str], None], progress: Callable[[Iterable[Any], str], Iterable[Any]],
    ) -> None:  # fmt: skip
        self._model, self._settings, self._folder = model, settings, folder
        self._note, self._progress = note, progress
        self._image_prefix = self._text_prefix = None
        if settings.prefix_cache and settings.unfreeze_image > 0:
            self._image_prefix = _image_prefix(model, settings.unfreeze_image)
        if settings.prefix_cache and settings.unfreeze_text > 0:
            self._text_prefix = _text_prefix(model, settings.unfreeze_text)

    def _bar(self, what: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
        return lambda parts: self._progress(parts, what)

    def images(self, pairs: Pairs, views: int) -> tuple[Pairs, Rows]:
        """The pairs whose images can be read, and the rows of the images."""
        if self._image_prefix:
            dtype = getattr(torch, self._settings.prefix_cache)
            stage = image_prefix_stage(self._model, self._image_prefix, dtype)
            kept, found = self._kept(stage, pairs, views)
            return kept, tail_images(self._image_prefix, found, self._settings.part)
        if self._settings.unfreeze_image:
            return pairs, live_images(self._model, pairs.pictures, self._settings.part)
        kept, found = self._kept(image_stage(self._model), pairs, views)
        return kept, cached(torch.stack([torch.stack(rows) for rows in found]))

    def _kept(self, stage: Stage, pairs: Pairs, views: int) -> tuple[Pairs, list[list[Tensor]]]:
        """The pairs whose images can be read, and what is kept of each view."""
        found: list[list[Tensor]] = []
        places: list[int] = []
        for view in range(views):
            bar = self._bar(f"images, view {view + 1} of {views}")
            given = (self._model, stage, pairs.pictures, self._folder, view, bar)
            rows, places, bad = image_rows(*given)
            found.append(rows)
            for error in bad if view == 0 else []:
                self._note(f"skipped {error}")
        return pairs.of(places), found

    def texts(self, texts: Sequence[str], what: str) -> Rows:
        """The rows of texts; `what` they are, for the progress bar."""
        bar, settings = self._bar(what), self._settings
        if self._text_prefix:
            stage = text_prefix_stage(
                self._model, self._text_prefix, getattr(torch, settings.prefix_cache)
            )
            kept = text_rows(self._model, stage, texts, self._folder, bar)
            return tail_texts(self._text_prefix, kept, self._tokens(texts), settings.part)
        if settings.unfreeze_text:
            return live_texts(self._model, texts, settings.part)
        kept = text_rows(self._model, text_stage(self._model), texts, self._folder, bar)
        return cached(torch.stack(kept).unsqueeze(0))

    def _tokens(self, texts: Sequence[str]) -> list[Tensor]:
        """Of each text, without padding, small."""
        found: list[Tensor] = []
        for some in batches(texts, TEXT_BATCH):
            batch = self._model.tokenize(some)
            real = batch["attention_mask"].bool()
            pairs = zip(batch["input_ids"].int(), real, strict=True)
            found += [ids[mask].cpu() for ids, mask in pairs]
        return found


def _image_prefix(model: TrainableClip, live: int) -> FrozenPrefix | None:
    """The frozen blocks of the image tower, None where there are none."""
    height, width = model.preprocess.crop or model.preprocess.size
    noise = torch.Generator().manual_seed(0)
    pixels = torch.rand((2, 3, height, width), generator=noise).to(model.device)
    prefix = FrozenPrefix(model.image, live, (model.preprocess.normalize(pixels),))
    return prefix if prefix.depth else None


def _text_prefix(model: TrainableClip, live: int) -> FrozenPrefix | None:
    """The same of the text tower."""
    tokens = model.tokenize(["a dog on a beach", "a dog"])
    prefix = FrozenPrefix(model.text, live, (tokens["input_ids"], tokens["attention_mask"]))
    return prefix if prefix.depth else None
