"""How a reward looks: a scorer, the views it is shown of a picture, and the preprocess of them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from clipguide.rewards.base import Generators, Reward
from clipguide.rewards.probes import probe
from clipguide.rewards.region import Region
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.preprocess import Match
    from clipguide.clip.scorer import Scorer


@dataclass(frozen=True)
class ViewEncoder:
    """Pictures, or noisy latents, to the unit embeddings of their views.

    Attributes:
        scorer: whose image tower embeds.
        views: of each picture; of latents only flips and shifts.
        match: the preprocess of images: "smooth", whose gradient is meant to be followed, or "pil",
            the exact one of scoring.
        region: the part that is looked at; None: all.

    Raises:
        ValueError: crops or noise for a scorer of latents.
    """

    scorer: Scorer
    views: Views = Views()
    match: Match = "smooth"
    region: Region | None = None

    def __post_init__(self) -> None:
        if self.scorer.reads == "latents":
            self.views.check_latents()

    def of_images(self, images: Tensor, generators: Generators | None) -> Tensor:
        """Of every view of each image (B, 3, H, W): (B, views.count, D)."""
        scorer = self.scorer
        seen = images if self.region is None else self.region.of_images(images)
        viewed = self.views(seen.to(scorer.device), generators)  # (B·V, 3, H, W)
        pixels = probe("preprocess", scorer.preprocess(viewed, match=self.match))
        embedding = probe("CLIP", scorer.model.encode_image(pixels))  # (B·V, D)
        return embedding.view(images.shape[0], self.views.count, -1)

    def of_latents(
        self, latents: Tensor, sigma_bar: float, generators: Generators | None
    ) -> Tensor:
        """Of every view of each noisy latent (B, C, h, w): (B, views.count, D).

        Raises:
            ValueError: a scorer of images.
        """
        from clipguide.clip.latent_scorer import LatentScorer

        scorer = self.scorer
        if not isinstance(scorer, LatentScorer):
            raise ValueError(f"got latents, expected images: {scorer.name} reads those")
        seen = latents if self.region is None else self.region.of_latents(latents, sigma_bar)
        viewed = self.views(seen.to(scorer.device), generators)  # (B·V, C, h, w)
        vectors = probe("latent CLIP", scorer.encode_latents(viewed, sigma_bar, check=False))
        return vectors.view(latents.shape[0], self.views.count, -1)


class ScorerReward(Reward):
    """A reward of a scorer's embeddings: what it reads and knows is what its scorer does.

    Args:
        encoder: the scorer and how it looks.
    """

    per_prompt: ClassVar[str] = ""
    """Names of the attributes that have a row for each prompt, with blanks between."""

    def __init__(self, encoder: ViewEncoder) -> None:
        self.encoder, self.reads = encoder, encoder.scorer.reads

    @property
    def entries(self) -> int:
        """How many prompts it holds."""
        return len(getattr(self, self.per_prompt.split()[0])) if self.per_prompt else 1

    def for_entries(self, rows: Sequence[int]) -> Reward:
        """The same reward with the prompts of such a batch."""
        if self.entries == 1:
            return self
        chosen = copy(self)
        for name in self.per_prompt.split():
            held = getattr(self, name)
            own = held[[*rows]] if isinstance(held, Tensor) else [held[row] for row in rows]
            setattr(chosen, name, own)
        return chosen

    @property
    def scorer(self) -> Scorer:
        """The model it asks."""
        return self.encoder.scorer

    @property
    def noise_aware(self) -> bool:
        """Whether its scorer is."""
        return self.scorer.noise_aware

    @property
    def guidance(self) -> dict[str, Any]:
        """A copy of the settings that a scorer of latents was measured best at; else empty."""
        return guidance_of(self.scorer)

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:
        """Raises where a scorer of latents reads another autoencoder's.

        Raises:
            ValueError: other weights, or none where the pipeline works on pixels.
        """
        from clipguide.clip.latent_scorer import LatentScorer

        scorer = self.scorer
        if not isinstance(scorer, LatentScorer):
            return
        if autoencoder is None:
            raise ValueError(f"{scorer.name}: got a pipeline without an autoencoder, expected one")
        scorer.check_autoencoder(autoencoder)


def as_scorer(scorer: Scorer | str | Path) -> Scorer:
    """A scorer as it is, where it is; one loaded on the CPU for a name of `load_scorer`.

    Raises:
        TypeError: neither.
        ValueError: an unknown name, a model that cannot be loaded, or a cross-encoder.
    """
    from clipguide.clip.cross_encoder import CrossEncoder
    from clipguide.clip.loading import load_scorer
    from clipguide.clip.scorer import Scorer

    if not (isinstance(scorer, Scorer) or hasattr(scorer, "encode_text")):  # what stands for one
        if not isinstance(cast("object", scorer), str | Path):
            got = type(scorer).__name__
            raise TypeError(f"got scorer {got}, expected a Scorer or a name of one")
        scorer = load_scorer(scorer)
    if isinstance(scorer, CrossEncoder):
        scorer.refuse()
    return cast("Scorer", scorer)


def guidance_of(scorer: Scorer) -> dict[str, Any]:
    """A copy of the settings that a scorer of latents was measured best at; else empty."""
    own: dict[str, Any] = getattr(scorer, "guidance", {})
    return dict(own)


def cosine_guidance(scorer: Scorer) -> dict[str, Any]:
    """The same for a reward of cosines, the strength half its factor on them times as large: it was
    measured on `ContrastReward`, which has that factor within."""
    settings = guidance_of(scorer)
    if "strength" in settings:
        settings["strength"] *= 0.5 * scorer.logit_scale
    return settings


def entry_of_each(batch: int, entries: int) -> Tensor:
    """Which of a reward's prompts goes with image i of a batch, (batch,): image i·n .. i·n+n-1 are
    of prompt i, as diffusers orders `num_images_per_prompt=n`.

    Raises:
        ValueError: a batch that is no multiple of the prompts.
    """
    if batch % entries:
        raise ValueError(
            f"got {batch} images for {entries} prompts, expected a multiple of {entries}"
        )
    return torch.arange(entries).repeat_interleave(batch // entries)
