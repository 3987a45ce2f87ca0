"""The directional reward: move a picture as the text moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from clipguide.images import ImageSource
from clipguide.rewards.embedding import EmbeddingReward, picture_embedding
from clipguide.rewards.view_encoder import ViewEncoder, as_scorer
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


class DirectionalReward(EmbeddingReward):
    """cos(E(image) - E(source image), T(target text) - T(source text)), in [-1, 1].

    E and T are the unit vectors of the two towers. A picture scores by how it differs from the
    source, so what both texts say alike, and what neither says, is left alone. 0 for the source
    image itself, with a gradient of 0: begin from noise or with another reward beside it.

    Args:
        scorer: what `load_scorer` returns, or a name for it; one of latents makes the reward read
            latents, the source picture being seen by its teacher.
        source_text: what the source picture shows.
        target_text: what it shall show.
        source_image: a PIL image, a path, or a tensor (3, H, W) or (1, 3, H, W) in [0, 1].
        views: random crops, flips and noise per image; the mean of the rewards is taken.

    Cost: one pass of the image tower over B·views.count images; two texts and one picture once.

    Raises:
        ValueError: an empty text, or texts of one vector, which have no direction.

    Example:
        >>> reward = DirectionalReward(scorer, "a red fox", "a white fox", image)
        >>> reward(images).shape
        torch.Size([2])

    Source: Gal et al. 2022, StyleGAN-NADA (section 4.1, Eq. 2, https://arxiv.org/abs/2108.00946),
    there as a loss 1 - cos.
    """

    def __init__(
        self,
        scorer: Scorer | str | Path,
        source_text: str,
        target_text: str,
        source_image: ImageSource | Tensor,
        views: Views = Views(),
    ) -> None:
        super().__init__(ViewEncoder(as_scorer(scorer), views))
        source, target = self.scorer.encode_text([source_text, target_text]).detach().float()
        self._direction: Tensor = target - source  # (D,)
        if float(self._direction.norm()) < 1e-6:
            raise ValueError(
                f"got source {source_text!r} and target {target_text!r} of one vector, expected "
                "texts that differ"
            )
        self._start: Tensor = picture_embedding(self.scorer, source_image)[0]  # (D,)

    def value(self, embeddings: Tensor) -> Tensor:
        """(B, V, D) -> (B, V)."""
        moved = embeddings - self._start.to(embeddings)
        return F.cosine_similarity(moved, self._direction.to(embeddings), dim=-1)
