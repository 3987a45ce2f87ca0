"""Losses of a latent tower made from a teacher's: its features, its embedding, a caption."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional

from clipguide.clip.latent_teacher import TeacherTower
from clipguide.clip.noise_level import NoiseScale
from clipguide.training.batches import BatchSettings, Drawn, Sampler
from clipguide.training.distillation_config import DistillSettings
from clipguide.training.distillation_rows import Photos

LAYOUT = (0.75, 0.15)
"""Mean and deviation of the noise levels around which the layout of a picture is decided."""
FLOOR = 0.05
"""Of the weight of the features' loss, which falls with the noise."""


def noise_levels(count: int, generator: torch.Generator) -> Tensor:
    """(count,) sigma_bar: every second one uniform in [0, 1], the others around `LAYOUT`."""
    even = torch.rand(count, generator=generator)
    mean, deviation = LAYOUT
    middle = (torch.randn(count, generator=generator) * deviation + mean).clamp(0, 1)
    return torch.where(torch.arange(count) % 2 == 0, even, middle)


def noised(latents: Tensor, sigma_bar: Tensor, noise: Tensor) -> Tensor:
    """Clean latents (B, C, h, w) at (B,) noise levels, in the normal form x/√(α²+σ²)."""
    level = sigma_bar[:, None, None, None]
    return (1 - level.square()).sqrt() * latents + level * noise


def feature_loss(predicted: Tensor, target: Tensor, sigma_bar: Tensor) -> Tensor:
    """Squared error of features (B, F, h, w), each picture's by 1 - sigma_bar² + `FLOOR`: the less
    of a picture can be seen, the less is asked."""
    error = (predicted.float() - target).square().mean(dim=(1, 2, 3))
    weight = 1 - sigma_bar.square() + FLOOR
    return (weight * error).sum() / weight.sum()


def caption_loss(vectors: Tensor, texts: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit vectors (B, D) and their captions (B, D), with a factor for each
    picture (B,); captions of `others` (N, D) are wrong ones of every picture."""
    own = scale[:, None] * (vectors @ texts.T)  # (B, B)
    wide = torch.cat([own, scale[:, None] * (vectors @ others.T)], dim=1)
    right = torch.arange(len(own), device=own.device)
    to_text, to_image = (
        functional.cross_entropy(wide, right),
        functional.cross_entropy(own.T, right),
    )
    return (to_text + to_image) / 2


class Distillation:
    """The losses of a step, by phase.

    Args:
        tower, scale: what is trained.
        photos: the training split, its features with it.
        settings: see `DistillSettings`.
        encoding: a context in which the tower computes.
    """

    def __init__(
        self, tower: TeacherTower, scale: NoiseScale, photos: Photos, settings: DistillSettings,
        encoding: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        self._tower, self._scale, self._photos = tower, scale, photos
        self._settings, self._encoding = settings, encoding
        self.samplers = [
            Sampler(
                photos.pairs, BatchSettings(size, views=settings.views, seed=settings.seed + phase)
            )
            for phase, size in enumerate((settings.stem_batch, settings.batch))
        ]

    def stem_loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Phase one: the teacher's features of the clean photo from its noisy latent."""
        drawn = self.samplers[0].draw(step, generator)
        latents, features, sigma_bar = self._inputs(drawn, generator)
        with self._encoding():
            predicted = self._tower.stem_features(latents, sigma_bar)
        loss = feature_loss(predicted, self._tower.standardized(features), sigma_bar)
        return {"loss": loss, "features": loss}

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Phase two: the teacher's embedding of the clean photo, a caption, and still the
        features."""
        drawn = self.samplers[1].draw(step, generator)
        latents, features, sigma_bar = self._inputs(drawn, generator)
        with self._encoding():
            predicted = self._tower.stem_features(latents, sigma_bar)
            vectors = self._tower.from_features(predicted, sigma_bar)
        vectors = functional.normalize(vectors.float(), dim=-1)
        clean = self._photos.vectors[drawn.views, drawn.images].to(vectors)
        texts, others = self._captions(drawn, generator)
        given = self._settings
        parts = {
            "cosine": 1 - (vectors * clean).sum(dim=-1).mean(),
            "caption": caption_loss(
                vectors, texts.to(vectors), others.to(vectors), self._scale(sigma_bar)
            ),
            "features": feature_loss(
                predicted, self._tower.standardized(features), sigma_bar
            ),
        }  # fmt: skip
        weights = {"cosine": given.cosine, "caption": given.caption, "features": given.features}
        total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return {"loss": total, **parts}

    def _inputs(self, drawn: Drawn, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, the teacher's features of the clean photos, and the noise levels."""
        if self._photos.features is None:
            raise ValueError("got photos without features, expected the teacher's")
        place = next(self._tower.parameters()).device
        latents = self._photos.latents[drawn.views, drawn.images].float()
        features = self._photos.features[drawn.views, drawn.images].float()
        if (
            self._settings.flip
        ):  # of features too: nearly what the teacher makes of a mirrored photo
            mirrored = torch.rand(len(latents), generator=generator) < 0.5
            latents, features = (
                torch.where(mirrored[:, None, None, None], rows.flip(-1), rows)
                for rows in (latents, features)
            )
        sigma_bar = noise_levels(len(latents), generator)
        noise = torch.randn(latents.shape, generator=generator)
        latents = noised(latents, sigma_bar, noise)
        return latents.to(place), features.to(place), sigma_bar.to(place)

    def _captions(self, drawn: Drawn, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The captions of the batch (B, D), and one of each of some other photos (N, D)."""
        owners, texts = self._photos.owners, self._photos.texts
        order = torch.randperm(len(texts), generator=generator)[: self._settings.others]
        others = order[~torch.isin(owners[order], drawn.images)]
        return texts[drawn.captions[:, 0]], texts[others]
