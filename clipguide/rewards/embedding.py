"""Rewards that are a function of CLIP's vector of a picture, or of noisy latents."""

from __future__ import annotations

from abc import abstractmethod
from os import PathLike
from typing import TYPE_CHECKING, cast

import torch
from PIL import Image
from torch import Tensor

from clipguide.images import ImageSource, load_image, to_tensor
from clipguide.rewards.base import Generators
from clipguide.rewards.view_encoder import ScorerReward

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


class EmbeddingReward(ScorerReward):
    """A reward of unit vectors: what a subclass says of them in `value`, its mean over views."""

    @abstractmethod
    def value(self, embeddings: Tensor) -> Tensor:
        """Unit vectors (B, V, D) of the views of each image -> (B, V)."""

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self.value(self.encoder.of_images(images, generators)).mean(1)

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """The same of noisy latents (B, C, h, w), for a scorer of latents; (B,)."""
        return self.value(self.encoder.of_latents(latents, sigma_bar, generators)).mean(1)


def picture(image: ImageSource | Tensor) -> Tensor:
    """A picture from anywhere as a tensor (1, 3, H, W) in [0, 1].

    Raises:
        ValueError: something else, or several pictures.
    """
    if isinstance(image, Tensor):
        one = image.unsqueeze(0) if image.ndim == 3 else image
        if one.ndim != 4 or one.shape[:2] != (1, 3):
            got = tuple(image.shape)
            raise ValueError(f"got a picture of shape {got}, expected (3, H, W) or (1, 3, H, W)")
        return one
    if not isinstance(cast("object", image), str | PathLike | Image.Image):
        got = type(image).__name__
        raise ValueError(f"got a picture of type {got}, expected a PIL image, a path or a tensor")
    return to_tensor(load_image(image))


def picture_embedding(scorer: Scorer, image: ImageSource | Tensor) -> Tensor:
    """The vector of one picture, (1, D); by the teacher of a scorer of latents, whose space it
    shares."""
    from clipguide.clip.latent_scorer import LatentScorer

    of_images = scorer.of_images if isinstance(scorer, LatentScorer) else scorer
    with torch.no_grad():
        return of_images.encode_image(picture(image)).detach().float()
