"""Reward by the score of any scorer, those without a gradient too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipguide.clip.scorer import check_prompts
from clipguide.rewards.base import Generators, Reward
from clipguide.rewards.view_encoder import entry_of_each

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


class ScorerReward(Reward):
    """What a scorer says of finished images, for a search: no gradient, no random views.

    `ClipReward` does more with a CLIP. This takes cross-encoders and judges that write, too
    ("itm:", "vqa:", "caption-back:", "log-prob:").

    Args:
        scorer: a `Scorer`, or a name for `load_scorer`.
        prompts: one text, or one for each image (image i·n .. i·n+n-1 are of prompt i).

    Cost: one score an image.

    Raises:
        ValueError: a scorer that cannot be loaded or reads latents; no prompt.

    Example:
        >>> from clipguide.search import search
        >>> reward = ScorerReward("log-prob:starter", "a red star")
        >>> best = search(pipe, "a red star", reward, "best_of", budget=2)[0].image
    """

    def __init__(self, scorer: Scorer | str | Path, prompts: str | Sequence[str]) -> None:
        from clipguide.clip.latent_scorer import LatentScorer
        from clipguide.clip.loading import load_scorer

        self.scorer = load_scorer(scorer) if isinstance(scorer, str | Path) else scorer
        if isinstance(self.scorer, LatentScorer):
            raise ValueError(f"{self.scorer.name}: reads latents, expected a scorer of images")
        self.prompts = check_prompts([prompts] if isinstance(prompts, str) else prompts)

    @torch.no_grad()
    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        rows = entry_of_each(len(images), len(self.prompts)).tolist()
        found = self.scorer.score(images.detach(), [self.prompts[row] for row in rows])
        return found.to(images.device)

    @property
    def entries(self) -> int:
        """One for each prompt."""
        return len(self.prompts)

    def for_entries(self, rows: Sequence[int]) -> Reward:
        """The reward of such a batch."""
        if len(self.prompts) == 1:
            return self
        return ScorerReward(self.scorer, [self.prompts[row] for row in rows])
