"""What an autoencoder and a teacher make of photographs and captions, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.clip.feature_cache import FeatureCache, content_key, fingerprint
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.teacher_tails import Cut
from clipguide.clip.weights import hash_weights
from clipguide.data.pairs import Pairs
from clipguide.images import ImageError
from clipguide.training.autoencoders import encode_images
from clipguide.training.features import TEXT_BATCH, Look, Stage, picture_rows

Bar = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps batches that are computed, with a description."""


@dataclass(frozen=True)
class Photos:
    """A split: rows of its photos by view, of its captions, and whose they are.

    Attributes:
        pairs: the photos that can be read, and their captions.
        latents: (V, N, C, h, w) float16, scaled.
        features: (V, N, F, gh, gw) float16, the teacher's at the entry of its tail; none where
            they are not needed.
        vectors: (V, N, D) the teacher's embeddings of the clean photos.
        texts: (M, D) of the captions.
        owners: (M,) positions of their photos.
    """

    pairs: Pairs
    latents: Tensor
    features: Tensor | None
    vectors: Tensor
    texts: Tensor
    owners: Tensor


def latent_preprocess(teacher: Preprocess, size: int) -> Preprocess:
    """The teacher's preprocessing with `size` pixels a side in place of its own, in [0, 1].

    The same part of a picture is seen.
    """
    crop = min(teacher.crop or teacher.size)
    rows, columns = (round(length * size / crop) for length in teacher.size)
    square = (size, size)
    return replace(
        teacher, size=(rows, columns), crop=square, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )


class LatentEncoder:
    """Pictures to latents.

    Args:
        preprocess: for the autoencoder.
        autoencoder: of diffusers.
        encoding: a context in which it encodes.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        autoencoder: nn.Module,
        encoding: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.preprocess, self._encoding = preprocess, encoding
        self._autoencoder = autoencoder.to(memory_format=torch.channels_last)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w) float32, scaled."""
        with self._encoding():
            images = pixels.contiguous(memory_format=torch.channels_last)
            return encode_images(self._autoencoder, images).float()

    def mark(self, device: str) -> dict[str, Any]:
        """What decides the latents on a kind of device, for a fingerprint."""
        with self._encoding():
            kind = str(torch.get_autocast_dtype(device))
            kind = kind if torch.is_autocast_enabled(device) else "float32"
        own: dict[str, Any] = {"kind": "latents", "autoencoder": hash_weights(self._autoencoder)}
        own |= {"preprocess": self.preprocess, "scale": _scaling(self._autoencoder)}
        return own | {"precision": kind}


@dataclass(frozen=True)
class Notices:
    """What is said while data is prepared.

    Attributes:
        note: receives lines about what cannot be read.
        bar: wraps what is computed.
    """

    note: Callable[[str], None]
    bar: Bar


class PhotoReader:
    """Makes `Photos` of a split, from the cache where it has them.

    Args:
        teacher: the scorer of images.
        cut: of its image tower.
        latents: from pictures to latents.
        folder: of the cache.
        notices: what is said meanwhile.
    """

    def __init__(
        self, teacher: Scorer, cut: Cut, latents: LatentEncoder, folder: Path, notices: Notices
    ) -> None:
        self._teacher, self._folder = teacher, folder
        self._note, self._bar = notices.note, notices.bar
        mark = latents.mark(teacher.device.type)
        own = {"teacher": teacher.content_hash, "preprocess": teacher.preprocess,
               "settings": teacher.settings_hash}  # fmt: skip
        self._latents = Look(
            Stage(latents, mark, torch.float16), latents.preprocess, teacher.device
        )
        features = Stage(cut.features, {"kind": "entry", "cut": cut.mark, **own}, torch.float16)
        self._features = Look(features, teacher.preprocess, teacher.device)
        vectors = Stage(teacher.model.encode_image, {"kind": "teacher", **own})
        self._vectors = Look(vectors, teacher.preprocess, teacher.device)

    def __call__(self, pairs: Pairs, views: int, features: bool) -> Photos:
        """The rows of a split; its features only where they are asked for."""
        for line in pairs.notes:
            self._note(line)
        latents, places, bad = self._rows(self._latents, pairs, views, "latents")
        for error in bad:
            self._note(f"skipped {error}")
        pairs = pairs.of(places)
        vectors = self._rows(self._vectors, pairs, views, "teacher")[0]
        entry = self._rows(self._features, pairs, views, "features")[0] if features else None
        bar = _named(self._bar, "captions")
        texts = teacher_texts(self._teacher, pairs.captions, self._folder, bar)
        return Photos(pairs, latents, entry, vectors, texts, torch.tensor(pairs.owners))

    def _rows(
        self, look: Look, pairs: Pairs, views: int, what: str
    ) -> tuple[Tensor, list[int], list[ImageError]]:
        found: list[Tensor] = []
        places: list[int] = []
        bad: list[ImageError] = []
        for view in range(views):
            name = f"{what}, view {view + 1} of {views}"
            bar = _named(self._bar, name)
            rows, places, wrong = picture_rows(look, pairs.pictures, self._folder, view, bar)
            bad = bad or wrong
            found.append(torch.stack(rows))
        return torch.stack(found), places, bad


def teacher_texts(
    teacher: Scorer,
    texts: Sequence[str],
    folder: Path,
    bar: Callable[[Iterable[Any]], Iterable[Any]],
) -> Tensor:
    """(M, D) a teacher's vectors of texts, those of like length together; kept on disk.

    Args:
        teacher: the scorer.
        texts: M of them.
        folder: of the cache.
        bar: wraps the batches that are computed.
    """
    order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
    keys = [content_key(texts[place].encode()) for place in order]
    own = {"teacher": teacher.content_hash, "settings": teacher.settings_hash}
    cache = FeatureCache(folder, fingerprint(kind="teacher text", **own))

    def compute(places: list[int]) -> dict[int, Tensor]:
        with torch.no_grad():
            rows = teacher.model.encode_text([texts[order[i]] for i in places])
        return dict(zip(places, rows, strict=True))

    cache.fill(keys, compute, TEXT_BATCH, bar)
    return cache.rows([content_key(text.encode()) for text in texts])


def _scaling(autoencoder: Any) -> dict[str, Any]:
    """What is done to its latents, for a fingerprint."""
    names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
    return {name: autoencoder.config.get(name) for name in names}


def _named(bar: Bar, name: str) -> Callable[[Iterable[Any]], Iterable[Any]]:
    return lambda parts: bar(parts, name)
