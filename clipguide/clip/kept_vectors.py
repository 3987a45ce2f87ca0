"""A scorer that embeds each image once: another prompt on the same images is a matrix product."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from clipguide.clip.feature_cache import FeatureCache, content_key, fingerprint
from clipguide.clip.image_arrays import Array, Images, as_images
from clipguide.images import ImageError, ImageSource

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


class KeptVectors:
    """A scorer of images whose vectors are kept by the content they were made of.

    A file is known by the SHA-256 of its bytes, wherever it lies and whatever it is called; a PIL
    image, tensor or array by that of its pixels. Vectors of another model, or of the same one
    with other settings, are other vectors.

    Args:
        scorer: of images.
        folder: where vectors are kept from run to run; None: in memory.

    Cost: one image embedding for each image not seen before; of one seen before the hash of its
    file. 4·D bytes per image.

    Raises:
        ValueError: a scorer of latents, or no scorer.

    Example:
        >>> kept = KeptVectors(scorer)
        >>> first = kept.score(files, "a fox")
        >>> again = kept.score(files, "a cat")      # no image is embedded
    """

    def __init__(self, scorer: Scorer, folder: Path | None = None) -> None:
        if not hasattr(scorer, "encode_image"):
            got = type(scorer).__name__
            raise ValueError(f"got a scorer of type {got}, expected a Scorer of images")
        if scorer.reads != "images":
            raise ValueError(f"{scorer.name}: got a scorer of latents, expected one of images")
        self.scorer = scorer
        mark = fingerprint(
            weights=scorer.content_hash,
            settings=scorer.settings_hash,
            preprocess=scorer.preprocess,
            what="unit vectors of whole images",
        )
        self._cache = FeatureCache(folder, mark)

    @property
    def name(self) -> str:
        """The scorer's."""
        return self.scorer.name

    def encode_image(self, images: Images) -> Tensor:
        """(B, D) unit vectors, without gradient, on the CPU.

        Raises: as `Scorer.encode_image`.
        """
        found = as_images(images)
        each = found if isinstance(found, list) else [*found]
        listed = [one[0] if isinstance(one, Tensor) and one.ndim == 4 else one for one in each]
        keys = [key_of(image) for image in listed]

        def compute(places: list[int]) -> dict[int, Tensor]:
            vectors = self.scorer.encode_image([listed[place] for place in places])
            return dict(zip(places, vectors.detach(), strict=True))

        self._cache.fill(keys, compute)
        return self._cache.rows(keys)

    def encode_text(self, prompts: str | Sequence[str]) -> Tensor:
        """(P, D) unit vectors on the CPU."""
        return self.scorer.encode_text(prompts).cpu()

    def score(self, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """(B,) cosines, image i against prompt i; a single string is every image's prompt.

        Raises: as `Scorer.score`.
        """
        vectors, texts = self.encode_image(images), self.encode_text(prompts)
        if len(texts) not in (1, len(vectors)):
            got = f"{len(vectors)} images and {len(texts)} prompts"
            raise ValueError(f"got {got}, expected as many")
        return (vectors * texts).sum(dim=-1)

    def similarity(self, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """(B, P) cosines of all pairs."""
        return self.encode_image(images) @ self.encode_text(prompts).T


def key_of(image: ImageSource | Tensor | Array) -> str:
    """The SHA-256 of an image: of a file's bytes, else of its pixels with their shape and type.

    Raises: ImageError for a file that cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return content_key(Path(image).read_bytes())
        except OSError as error:
            raise ImageError(str(image), error.strerror or str(error)) from error
    if isinstance(image, Image.Image):
        return _pixels(f"{image.mode} {image.size}", image.tobytes())
    array = image.detach().cpu().contiguous().numpy() if isinstance(image, Tensor) else image
    return _pixels(f"{array.dtype} {array.shape}", np.ascontiguousarray(array).tobytes())


def _pixels(shape: str, data: bytes) -> str:
    return hashlib.sha256(f"{shape}\0".encode() + data).hexdigest()
