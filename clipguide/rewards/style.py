"""The style reward: a picture's texture and colours, wherever they are in it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipguide.clip.patch_tokens import patch_tokens
from clipguide.images import ImageSource
from clipguide.rewards.base import Generators, Reward
from clipguide.rewards.embedding import picture
from clipguide.rewards.probes import probe
from clipguide.rewards.view_encoder import as_scorer
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


class StyleReward(Reward):
    """-‖G(image) - G(style)‖_F / ‖G(style)‖_F, G = FᵀF / N being the Gram matrix of features F.

    F (N, C) are what CLIP's image tower makes of the N patches in one of its layers. Their Gram
    matrix says which features come together, not where: 0 for the style picture itself, also with
    its patches in another order (but for what the tower's positions tell them apart by).

    Args:
        scorer: of images: what `load_scorer` returns, or a name for it.
        image: the picture whose style is wanted: a PIL image, a path, a tensor (3, H, W) or
            (1, 3, H, W) in [0, 1].
        layer: of the image tower, from 1; None: after a quarter of them, rounded up, as published
            (the third of twelve).
        views: random crops, flips and noise per image; the mean of the rewards is taken.

    Cost: one pass of the image tower over B·views.count images, its layers' states in memory.

    Raises:
        ValueError: a scorer of latents, a model that does not hand out its layers
            (`clipguide.clip.patch_tokens`), a layer that it does not have.

    Example:
        >>> reward = ClipReward(scorer, "a fox") + 0.2 * StyleReward(scorer, "photo.jpg")

    Source: Gram matrices, Gatys et al. 2016 (section 2.2,
    https://doi.org/10.1109/CVPR.2016.265); of CLIP's third layer in guidance, Yu et al. 2023
    (FreeDoM, section 4.1, https://arxiv.org/abs/2303.09833). The division by the style's own norm
    is ours: without it the value's size depends on the tower.
    """

    def __init__(
        self,
        scorer: Scorer | str | Path,
        image: ImageSource | Tensor,
        layer: int | None = None,
        views: Views = Views(),
    ) -> None:
        self.scorer, self.views = as_scorer(scorer), views
        if self.scorer.reads != "images":
            raise ValueError(f"{self.scorer.name}: got a scorer of latents, expected one of images")
        with torch.no_grad():
            states = self._layers(picture(image))
        if layer is not None and not 1 <= layer <= len(states):
            raise ValueError(f"got layer {layer}, expected 1 to {len(states)}: the tower's layers")
        self.layer = math.ceil(len(states) / 4) if layer is None else layer
        self._style = gram(states[self.layer - 1])  # (1, C, C)

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        viewed = self.views(images, generators)  # (B·V, 3, H, W)
        found = gram(probe("CLIP", self._layers(viewed)[self.layer - 1]))  # (B·V, C, C)
        style = self._style.to(found)
        distance = (found - style).flatten(1).norm(dim=1) / style.norm()  # (B·V,)
        return -distance.view(len(images), -1).mean(1)

    def _layers(self, images: Tensor) -> list[Tensor]:
        pixels = self.scorer.preprocess(images.to(self.scorer.device), match="smooth")
        return patch_tokens(self.scorer.model, probe("preprocess", pixels))


def gram(features: Tensor) -> Tensor:
    """Features (B, N, C) -> FᵀF / N, (B, C, C)."""
    return features.mT @ features / features.shape[1]
