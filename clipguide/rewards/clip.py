"""The CLIP reward: cosines between an image and prompts, weighted and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.images import load_image, to_tensor
from clipguide.rewards.base import Generators
from clipguide.rewards.region import RegionLike, region_of
from clipguide.rewards.view_encoder import (
    ScorerReward,
    ViewEncoder,
    as_scorer,
    cosine_guidance,
    entry_of_each,
)
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.image_arrays import Array
    from clipguide.clip.preprocess import Match
    from clipguide.clip.scorer import Scorer
    from clipguide.images import ImageSource

    ImagePrompt = ImageSource | Tensor | Array

Prompt = str | Mapping[str, float]
Prompts = Prompt | Sequence[Prompt]


class ClipReward(ScorerReward):
    """Mean over views of Σ w·cos(image, prompt) - negative_weight · Σ w·cos(image, negative).

    Every prompt is encoded once, here; all of them together are one vector per image, so a call
    costs one pass of the image tower over B·views.count images, whatever the number of prompts.

    Args:
        scorer: what `load_scorer` returns, or a name for it, which is loaded on the CPU; one of
            latents makes the reward read latents.
        prompt: a text, or a mapping of texts to weights (their cosines are added), for the whole
            batch; or a sequence with one such entry per prompt of the batch. Entry i then goes with
            images i·n .. i·n+n-1, as diffusers orders `num_images_per_prompt=n`.
        negative: what to stay away from, in the same forms.
        negative_weight: factor of the negative cosines, 0 or more.
        image: an image prompt to be near to (a PIL image, a path, a tensor (1,3,H,W) in [0,1],
            an array (H,W,3)), or a sequence with one per prompt of the batch.
        image_weight: factor of the image prompt's cosine.
        views: random crops, flips and noise per image; the default is the image itself.
        match: "smooth", a preprocess whose gradient is meant to be followed, or "pil", the exact
            one of scoring.
        region: the part of the picture that is meant (`clipguide.rewards.region.Region`):
            (x0, y0, x1, y1) in fractions of width and height, or a mask (h, w); None: all of it.

    Raises:
        ValueError: nothing to be near to or away from; an empty prompt; sequences of unequal
            length; a weight that is not finite.

    Example:
        >>> reward = ClipReward(scorer, "a red fox", negative="a cat", views=Views(count=2))
        >>> reward(images, generators=generators)      # (B,)

    Source: CLIP guidance, Nichol et al. 2022 (GLIDE, section 2.4,
    https://arxiv.org/abs/2112.10741).
    """

    per_prompt = "_targets"

    @ordinary_tensors()
    def __init__(
        self,
        scorer: Scorer | str | Path,
        prompt: Prompts | None = None,
        *,
        negative: Prompts | None = None,
        negative_weight: float = 0.5,
        image: ImagePrompt | Sequence[ImagePrompt] | None = None,
        image_weight: float = 1.0,
        views: Views = Views(),
        match: Match = "smooth",
        region: RegionLike | None = None,
    ) -> None:
        if prompt is None and negative is None and image is None:
            raise ValueError("got no prompt, negative or image, expected at least one of them")
        for name, weight in (("negative_weight", negative_weight), ("image_weight", image_weight)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"got {name} {weight}, expected a finite number >= 0")
        super().__init__(ViewEncoder(as_scorer(scorer), views, match, region_of(region)))
        self._targets = _weighted_sum(
            (1.0, _text_targets(self.scorer, prompt)),
            (-negative_weight, _text_targets(self.scorer, negative)),
            (image_weight, _image_targets(self.scorer, image)),
        )  # (P, D): the reward is linear in the image's embedding

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self._cosines(self.encoder.of_images(images, generators))

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """The same of noisy latents (B, C, h, w), for a scorer of latents; (B,)."""
        return self._cosines(self.encoder.of_latents(latents, sigma_bar, generators))

    @property
    def guidance(self) -> dict[str, Any]:
        """The scorer's own, its strength for cosines: half its factor on them times as large, which
        is what `ContrastReward` has within."""
        return cosine_guidance(self.scorer)

    def _cosines(self, embedding: Tensor) -> Tensor:
        """(B, V, D) -> (B,)."""
        rows = entry_of_each(len(embedding), len(self._targets))
        targets = self._targets[rows].to(embedding)  # (B, D)
        return torch.einsum("bvd,bd->b", embedding, targets) / self.encoder.views.count


def _weighted_sum(*terms: tuple[float, Tensor | None]) -> Tensor:
    """Σ weight · targets of the terms that are there, one of a single entry going with each of the
    others' (P, D)."""
    rows = [weight * encoded for weight, encoded in terms if encoded is not None]
    counts = {row.shape[0] for row in rows} - {1}
    if len(counts) > 1:
        raise ValueError(
            f"got sequences of {sorted(counts)} prompts, negatives or images, expected equal "
            "lengths"
        )
    entries = max(counts, default=1)
    return torch.stack([row.expand(entries, -1) for row in rows]).sum(0)


def _entries(prompts: Prompts) -> list[dict[str, float]]:
    """One mapping of texts to weights per prompt of the batch."""
    entries = [prompts] if isinstance(prompts, str | Mapping) else [*prompts]
    weighted = [{e: 1.0} if isinstance(e, str) else dict(e) for e in entries]
    if not weighted or not all(weighted):
        raise ValueError("got an empty sequence or mapping of prompts, expected at least one")
    for text, weight in (item for entry in weighted for item in entry.items()):
        if not text.strip():
            raise ValueError("got an empty prompt, expected some text")
        if not abs(weight) < float("inf"):
            raise ValueError(f"got weight {weight} for {text!r}, expected a finite number")
    return weighted


def _text_targets(scorer: Scorer, prompts: Prompts | None) -> Tensor | None:
    """Σ weight · text embedding for each entry, (P, D)."""
    if prompts is None:
        return None
    entries = _entries(prompts)
    texts = list(dict.fromkeys(text for entry in entries for text in entry))
    embedding: Tensor = scorer.encode_text(texts).detach().float()  # (texts, D)
    row = {text: embedding[i] for i, text in enumerate(texts)}
    return torch.stack(
        [torch.stack([w * row[text] for text, w in entry.items()]).sum(0) for entry in entries]
    )


def _image_targets(
    scorer: Scorer, image: ImagePrompt | Sequence[ImagePrompt] | None
) -> Tensor | None:
    """The embedding of each image prompt, (P, D)."""
    if image is None:
        return None
    several = isinstance(image, Sequence) and not isinstance(image, str)
    images = cast("Sequence[ImagePrompt]", image if several else [image])
    with torch.no_grad():
        return torch.cat(
            [scorer.encode_image(one).detach().float() for one in map(_prompt, images)]
        )


def _prompt(image: ImagePrompt) -> Tensor | Array:
    """What `Scorer.encode_image` takes as one image, of a file the tensor of its pixels."""
    if isinstance(image, Tensor):
        return image.unsqueeze(0) if image.ndim == 3 else image
    return image if isinstance(image, np.ndarray) else to_tensor(load_image(image))
