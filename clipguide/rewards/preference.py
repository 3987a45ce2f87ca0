"""Preference rewards: CLIPs tuned on which of two pictures people preferred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor

from clipguide.clip.hub import fetch
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.preprocess import Match, Preprocess
from clipguide.clip.refusals import refusing
from clipguide.rewards.base import Generators
from clipguide.rewards.embedding import EmbeddingReward
from clipguide.rewards.probes import probe
from clipguide.rewards.view_encoder import ViewEncoder, entry_of_each
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer


@dataclass(frozen=True)
class Preference:
    """A published preference model.

    Attributes:
        load: its CLIP; weights from safetensors.
        preprocess: what it sees, from what its architecture sees otherwise.
        match: "pil" where pictures are resized as 8 bits, "smooth" where as floats.
        scaled: whether its score is the cosine times the model's `logit_scale`, or the cosine.
    """

    load: Callable[[], Scorer]
    preprocess: Callable[[Preprocess], Preprocess]
    match: Match
    scaled: bool


def _pickscore() -> Scorer:
    from clipguide.clip.loading import load_scorer

    return load_scorer("hf:yuvalkirstain/PickScore_v1")


def _hpsv21() -> Scorer:
    file = fetch("hpsv2.1", "RE-N-Y/hpsv21", ["model.safetensors"]) / "model.safetensors"
    return load_prefixed("open_clip:ViT-H-14", file)


def load_prefixed(architecture: str, file: Path) -> Scorer:
    """A model of open_clip with the weights of a file that names them `model.NAME`, or `NAME`.

    Raises:
        ValueError: weights that are not those of the architecture.
    """
    from clipguide.clip.loading import load_scorer

    scorer = load_scorer(f"{architecture}/random")
    with refusing(str(file)):
        weights = {name.removeprefix("model."): w for name, w in load_file(file).items()}
        scorer.model.module.load_state_dict(weights)
    return scorer


def _whole_on_black(preprocess: Preprocess) -> Preprocess:
    """The longer side becomes the model's, black beside it; nothing is cut away."""
    return replace(preprocess, resize="contain", interpolation="bicubic", fill=0)


PREFERENCES: dict[str, Preference] = {
    "pickscore": Preference(_pickscore, lambda own: own, "pil", scaled=True),
    "hpsv2.1": Preference(_hpsv21, _whole_on_black, "smooth", scaled=False),
}
"""Name -> model."""


class PreferenceReward(EmbeddingReward):
    """Which pictures of a prompt people prefer, as PickScore or HPSv2.1 says it.

    - "pickscore": logit_scale · cos(image, prompt), about 15 to 25; the preprocessing of its
      repository (bicubic on 8 bits, the middle square).
    - "hpsv2.1": cos(image, prompt), about .2 to .35; the whole picture, its longer side as long as
      the model sees, resized as floats, black beside it.

    Both are equal to what their authors' code gives (held against it, with the same configuration
    and other weights), but need none of it.

    Args:
        name: one of `PREFERENCES`.
        prompt: a text for the whole batch, or one per prompt of the batch; entry i goes with images
            i·n .. i·n+n-1, as diffusers orders `num_images_per_prompt=n`.
        scorer: a CLIP with other weights in the place of the published ones, such as a file of
            HPSv2.1's: `load_scorer("open_clip:ViT-H-14/FILE.safetensors")`.
        views: random crops, flips and noise per image; the mean of the scores is taken.

    Cost: a ViT-H/14: 4 GB, fetched on first use; one pass of its image tower over B·views.count
    images. The gradient goes straight through the rounding to 8 bits.

    Raises:
        ValueError: another name (they are listed), an empty prompt, a scorer of latents, weights
            that cannot be fetched.

    Example:
        >>> reward = PreferenceReward("pickscore", "a red fox", scorer)
        >>> reward(images).shape
        torch.Size([2])

    Source: Kirstain et al. 2023, Pick-a-Pic (section 4, https://arxiv.org/abs/2305.01569); Wu et
    al. 2023, Human Preference Score v2 (https://arxiv.org/abs/2306.09341), its code's
    `img_score.py`. The weights of the second are published as a pickle; those fetched are a copy
    of them as safetensors, RE-N-Y/hpsv21.
    """

    per_prompt = "_texts"

    @ordinary_tensors()
    def __init__(
        self,
        name: str,
        prompt: str | Sequence[str],
        scorer: Scorer | None = None,
        views: Views = Views(),
    ) -> None:
        if name not in PREFERENCES:
            raise ValueError(f"got preference {name!r}, expected one of {', '.join(PREFERENCES)}")
        model = PREFERENCES[name]
        chosen = model.load() if scorer is None else scorer
        super().__init__(ViewEncoder(chosen, views, model.match))
        if self.reads != "images":
            raise ValueError(f"{self.scorer.name}: got a scorer of latents, expected one of images")
        self.name, self.preprocess = name, model.preprocess(self.scorer.preprocess)
        self.scale = self.scorer.logit_scale if model.scaled else 1.0
        prompts = [prompt] if isinstance(prompt, str) else [*prompt]
        self._texts: Tensor = self.scorer.encode_text(prompts).detach().float()  # (P, D)

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        viewed = self.encoder.views(images.to(self.scorer.device), generators)  # (B·V, 3, H, W)
        pixels = probe("preprocess", self.preprocess(viewed, self.encoder.match))
        seen = probe("CLIP", self.scorer.model.encode_image(pixels))  # (B·V, D)
        return self.value(seen.view(len(images), self.encoder.views.count, -1)).mean(1)

    def value(self, embeddings: Tensor) -> Tensor:
        """(B, V, D) -> (B, V)."""
        rows = entry_of_each(len(embeddings), len(self._texts))
        texts = self._texts[rows].to(embeddings)  # (B, D)
        return self.scale * (embeddings * texts[:, None]).sum(-1)
