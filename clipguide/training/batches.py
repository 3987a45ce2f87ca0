"""From places in the data to a batch: drawn by (seed, step) alone, from cached or live features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipguide.clip.trainable import TrainableClip
from clipguide.data.pairs import Pairs, Picture
from clipguide.seeds import derive_generator
from clipguide.training.features import random_view
from clipguide.training.frozen_prefix import FrozenPrefix
from clipguide.training.gradient_cache import encode_in_parts

Rows = Callable[[Tensor, Tensor], Tensor]
"""(places (B,), views (B,)) -> features before the head (B, F); texts have one view."""


@dataclass(frozen=True)
class Drawn:
    """Places of one batch: images (B,), their views (B,), captions (B, k), wrong captions (N,)."""

    images: Tensor
    views: Tensor
    captions: Tensor
    wrong: Tensor


@dataclass(frozen=True)
class BatchSettings:
    """What a batch is made of.

    Attributes:
        size: images of a step; 0 for all. The last batch of an epoch may be smaller.
        captions: of each image; an image with fewer gives some twice.
        views: of each image, of which one is drawn.
        seed: of the run.
    """

    size: int
    captions: int = 1
    views: int = 1
    seed: int = 0


class Sampler:
    """Draws batches: an epoch is a permutation of the images, captions are drawn among an image's.

    Args:
        pairs: captions of an image stand together, in the order of the images.
        settings: of a batch.
        wrong: (C, w) places of the hard negatives of each caption, -1 where there is none; None
            where no caption has any.
    """

    def __init__(self, pairs: Pairs, settings: BatchSettings, wrong: Tensor | None = None) -> None:
        owners = torch.tensor(pairs.owners)
        self.count = len(pairs.pictures)
        self._sizes = torch.bincount(owners, minlength=self.count)
        self._firsts = self._sizes.cumsum(0) - self._sizes
        self._batch = min(settings.size, self.count) or self.count
        self._captions, self._views = settings.captions, settings.views
        none = torch.empty((len(owners), 0), dtype=torch.long)
        self._wrong = none if wrong is None else wrong
        self._root = torch.Generator().manual_seed(settings.seed)
        self._order = (-1, torch.empty(0, dtype=torch.long))
        self.steps = -(-self.count // self._batch)  # of an epoch

    def draw(self, step: int, generator: torch.Generator) -> Drawn:
        """The batch of a step; `generator` belongs to that step."""
        epoch, place = divmod(step, self.steps)
        if self._order[0] != epoch:
            source = derive_generator(self._root, f"epoch {epoch}")
            self._order = epoch, torch.randperm(self.count, generator=source)
        images = self._order[1][place * self._batch : (place + 1) * self._batch]
        views = torch.randint(self._views, (len(images),), generator=generator)
        sizes = self._sizes[images].unsqueeze(1)  # (B, 1)
        first = (torch.rand((len(images), 1), generator=generator) * sizes).long()
        offsets = (first + torch.arange(self._captions)) % sizes
        captions = self._firsts[images].unsqueeze(1) + offsets  # (B, k)
        wrong = self._wrong[captions.flatten()].flatten()
        return Drawn(images, views, captions, wrong[wrong >= 0])


def cached(features: Tensor) -> Rows:
    """Rows of (V, N, F) features that were computed before."""
    return lambda places, views: features[views, places]


def tail_images(prefix: FrozenPrefix, views: Sequence[Sequence[Tensor]], part: int) -> Rows:
    """Images from their kept states, by view and place, through the live blocks, with gradient."""

    def rows(places: Tensor, chosen: Tensor) -> Tensor:
        pairs = zip(chosen.tolist(), places.tolist(), strict=True)
        states = torch.stack([views[view][place] for view, place in pairs])
        states = states.to(prefix.device).float()

        def encode(states: Tensor) -> Tensor:
            return prefix.tail(states, states)  # in the place of pixels, which no block reads

        return encode_in_parts(encode, [states], part) if part else encode(states)

    return rows


def tail_texts(
    prefix: FrozenPrefix, kept: Sequence[Tensor], tokens: Sequence[Tensor], part: int
) -> Rows:
    """Texts from their kept states through the live blocks, with gradient; `tokens` of each text,
    which the pooling may read."""

    def rows(places: Tensor, _views: Tensor) -> Tensor:
        chosen: list[int] = places.tolist()
        states = pad_sequence([kept[place] for place in chosen], batch_first=True)  # (B, T, D)
        lengths = torch.tensor([len(tokens[place]) for place in chosen])
        mask = (torch.arange(states.shape[1]) < lengths.unsqueeze(1)).long()
        ids = pad_sequence([tokens[place] for place in chosen], batch_first=True).long()
        device = prefix.device
        inputs = [states.to(device).float(), ids.to(device), mask.to(device)]
        return encode_in_parts(prefix.tail, inputs, part) if part else prefix.tail(*inputs)

    return rows


def live_images(model: TrainableClip, pictures: Sequence[Picture], part: int) -> Rows:
    """Images read and encoded with gradient, `part` at a time (0: all at once)."""
    keys: dict[int, str] = {}

    def read(place: int, view: int) -> Tensor:
        if view and place not in keys:
            keys[place] = pictures[place].key()
        image = random_view(pictures[place].load(), keys.get(place, ""), view)
        return model.preprocess.from_pil(image)

    def rows(places: Tensor, views: Tensor) -> Tensor:
        chosen = zip(places.tolist(), views.tolist(), strict=True)
        pixels = torch.stack([read(place, view) for place, view in chosen])
        batch = model.preprocess.normalize(pixels.to(model.device).float().div(255))
        return encode_in_parts(model.image, [batch], part) if part else model.image(batch)

    return rows


def live_texts(model: TrainableClip, texts: Sequence[str], part: int) -> Rows:
    """Texts encoded with gradient, `part` at a time (0: all at once)."""

    def rows(places: Tensor, _views: Tensor) -> Tensor:
        chosen: list[int] = places.tolist()
        tokens = model.tokenize([texts[place] for place in chosen])
        inputs = [tokens["input_ids"], tokens["attention_mask"]]
        return encode_in_parts(model.text, inputs, part) if part else model.text(*inputs)

    return rows
