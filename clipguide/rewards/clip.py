"""The CLIP reward: cosines between an image and prompts, weighted and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.images import load_image, to_tensor
from clipguide.rewards.base import Generators, Reward
from clipguide.rewards.probes import probe
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.image_arrays import Array
    from clipguide.clip.scorer import Scorer
    from clipguide.images import ImageSource

    ImagePrompt = ImageSource | Tensor | Array

Prompt = str | Mapping[str, float]
Prompts = Prompt | Sequence[Prompt]


class ClipReward(Reward):
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

    Raises:
        ValueError: nothing to be near to or away from; an empty prompt; sequences of unequal
            length; a weight that is not finite.

    Example:
        >>> reward = ClipReward(scorer, "a red fox", negative="a cat", views=Views(count=2))
        >>> reward(images, generators=generators)      # (B,)

    Source: CLIP guidance, Nichol et al. 2022 (GLIDE, section 2.4,
    https://arxiv.org/abs/2112.10741).
    """

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
        match: Literal["pil", "smooth"] = "smooth",
    ) -> None:
        if prompt is None and negative is None and image is None:
            raise ValueError("got no prompt, negative or image, expected at least one of them")
        for name, weight in (("negative_weight", negative_weight), ("image_weight", image_weight)):
            if not 0 <= weight < float("inf"):
                raise ValueError(f"got {name} {weight}, expected a finite number >= 0")
        scorer = as_scorer(scorer)
        self.scorer, self.reads = scorer, scorer.reads
        self.views = checked_views(scorer, views)
        self.match: Literal["pil", "smooth"] = match
        rows = [
            weight * encoded
            for weight, encoded in (
                (1.0, _text_targets(scorer, prompt)),
                (-negative_weight, _text_targets(scorer, negative)),
                (image_weight, _image_targets(scorer, image)),
            )
            if encoded is not None
        ]
        counts = {row.shape[0] for row in rows} - {1}
        if len(counts) > 1:
            raise ValueError(
                f"got sequences of {sorted(counts)} prompts, negatives or images, expected equal "
                "lengths"
            )
        self._targets: Tensor = torch.stack(
            [row.expand(max(counts, default=1), -1) for row in rows]
        ).sum(0)  # (P, D): the reward is linear in the image's embedding

    @property
    def noise_aware(self) -> bool:
        """Whether its scorer is."""
        return self.scorer.noise_aware

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self._cosines(
            view_embeddings(self.scorer, self.views, self.match, images, generators)
        )

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """The same of noisy latents (B, C, h, w), for a scorer of latents; (B,)."""
        return self._cosines(
            latent_embeddings(self.scorer, self.views, latents, sigma_bar, generators)
        )

    @property
    def guidance(self) -> dict[str, Any]:
        """The scorer's own, its strength for cosines: half its factor on them times as large, which
        is what `ContrastReward` has within."""
        settings = guidance_of(self.scorer)
        if "strength" in settings:
            settings["strength"] *= 0.5 * self.scorer.logit_scale
        return settings

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:
        """As the scorer does."""
        check_latents_of(self.scorer, autoencoder)

    def _cosines(self, embedding: Tensor) -> Tensor:
        """(B, V, D) -> (B,)."""
        targets = self._targets_of(len(embedding)).to(embedding)  # (B, D)
        return torch.einsum("bvd,bd->b", embedding, targets) / self.views.count

    def _targets_of(self, batch: int) -> Tensor:
        count = self._targets.shape[0]
        if batch % count:
            raise ValueError(
                f"got {batch} images for {count} prompts, expected a multiple of {count}"
            )
        return self._targets.repeat_interleave(batch // count, dim=0)  # (B, D)


def as_scorer(scorer: Scorer | str | Path) -> Scorer:
    """A scorer as it is, where it is; one loaded on the CPU for a name of `load_scorer`.

    Raises:
        TypeError: neither.
        ValueError: an unknown name, or a model that cannot be loaded.
    """
    from clipguide.clip.loading import load_scorer
    from clipguide.clip.scorer import Scorer

    if isinstance(scorer, Scorer) or hasattr(scorer, "encode_text"):  # or what stands for one
        return cast("Scorer", scorer)
    if not isinstance(cast("object", scorer), str | Path):
        raise TypeError(f"got scorer {type(scorer).__name__}, expected a Scorer or a name of one")
    return load_scorer(scorer)


def view_embeddings(
    scorer: Scorer,
    views: Views,
    match: Literal["pil", "smooth"],
    images: Tensor,
    generators: Generators | None,
) -> Tensor:
    """Unit embeddings of every view of each image (B, 3, H, W): (B, views.count, D)."""
    viewed = views(images.to(scorer.device), generators)  # (B·V, 3, H, W)
    pixels = probe("preprocess", scorer.preprocess(viewed, match=match))
    embedding = probe("CLIP", scorer.model.encode_image(pixels))  # (B·V, D)
    return embedding.view(images.shape[0], views.count, -1)


def latent_embeddings(
    scorer: Scorer,
    views: Views,
    latents: Tensor,
    sigma_bar: float,
    generators: Generators | None,
) -> Tensor:
    """Unit embeddings of every view of each noisy latent (B, C, h, w): (B, views.count, D).

    Raises:
        ValueError: a scorer of images.
    """
    from clipguide.clip.latent_scorer import LatentScorer

    if not isinstance(scorer, LatentScorer):
        raise ValueError(f"got latents, expected images: {scorer.name} reads those")
    viewed = views(latents.to(scorer.device), generators)  # (B·V, C, h, w)
    vectors = probe("latent CLIP", scorer.encode_latents(viewed, sigma_bar, check=False))
    return vectors.view(latents.shape[0], views.count, -1)


def checked_views(scorer: Scorer, views: Views) -> Views:
    """The views themselves, where the scorer's kind has them."""
    if scorer.reads == "latents":
        views.check_latents()
    return views


def guidance_of(scorer: Scorer) -> dict[str, Any]:
    """A copy of the settings that a scorer of latents was measured best at; else empty."""
    own: dict[str, Any] = getattr(scorer, "guidance", {})
    return dict(own)


def check_latents_of(scorer: Scorer, autoencoder: nn.Module | None) -> None:
    """Raises where a scorer of latents reads another autoencoder's.

    Raises:
        ValueError: other weights, or none where the pipeline works on pixels.
    """
    from clipguide.clip.latent_scorer import LatentScorer

    if not isinstance(scorer, LatentScorer):
        return
    if autoencoder is None:
        raise ValueError(f"{scorer.name}: got a pipeline without an autoencoder, expected one")
    scorer.check_autoencoder(autoencoder)


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
