"""The contrast reward: how surely the prompt, and none of its alternatives, describes an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.data.alternatives import alternatives_of
from clipguide.rewards.base import Generators
from clipguide.rewards.region import RegionLike, region_of
from clipguide.rewards.view_encoder import ScorerReward, ViewEncoder, as_scorer, entry_of_each
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.preprocess import Match
    from clipguide.clip.scorer import Scorer


class ContrastReward(ScorerReward):
    """log softmax(z)[0] + cosine·z[0], z = scale·cos(image, [prompt, *alternatives]).

    The first term is the log-probability that CLIP, as a zero-shot classifier, gives the prompt
    among itself and what it is mistaken for, so guidance by it is classifier guidance. A plain
    cosine also rises with what the prompt does not ask for (a colour more vivid, an object larger);
    this one rises with what tells the prompt from its alternatives, and stops rising when it is
    told apart. Use `normalize="clamp"` with it: a picture that CLIP is sure of is left alone. On x0
    previews it says earlier than a cosine what the picture will be (figures in the starter's model
    card).
    A call costs one pass of the image tower over B·views.count images.

    Args:
        scorer: what `load_scorer` returns, or a name for it, which is loaded on the CPU; one of
            latents makes the reward read latents.
        prompt: a text for the whole batch, or one per prompt of the batch; entry i goes with images
            i·n .. i·n+n-1, as diffusers orders `num_images_per_prompt=n`.
        alternatives: for each prompt the texts it must be told from; None takes those of the rules
            that the scorer is best used with (`scorer.alternatives`, rules for English of
            `clipguide.data.alternatives`): "swaps", two things, hues or numbers exchanged, a
            relation turned round; for `starter:latent` also "doubles", a thing named twice.
        scale: of the cosines in the softmax, above 0; None is half the model's own `logit_scale`,
            which is too sure of previews, and for a scorer of latents half of its `scale_at` the
            noise level.
        cosine: weight of the plain z[0], 0 or more. It is all there is for a prompt without
            alternatives.
        views: random crops, flips and noise per image; the mean of the rewards is taken.
        match: "smooth", a preprocess whose gradient is meant to be followed, or "pil", the exact
            one of scoring.
        region: the part of the picture that is meant (`clipguide.rewards.region.Region`):
            (x0, y0, x1, y1) in fractions of width and height, or a mask (h, w); None: all of it.

    Raises:
        ValueError: an empty prompt or alternative; not one list of alternatives per prompt; a scale
            or weight out of range; a prompt without alternatives at cosine 0.

    Example:
        >>> reward = ContrastReward(scorer, "a red cube left of a blue ball")
        >>> with guide(pipe, reward, strength=3, mode="xt", normalize="clamp"):
        ...     image = pipe("a red cube left of a blue ball").images[0]

    Source: classifier guidance, Dhariwal and Nichol 2021 (section 4.1,
    https://arxiv.org/abs/2105.05233) with the zero-shot classifier of Radford et al. 2021 (section
    3.1, https://arxiv.org/abs/2103.00020) over the hard negatives of Yuksekgonul et al. 2023
    (section 4, https://arxiv.org/abs/2210.01936).
    """

    per_prompt = "_texts _absent"

    @ordinary_tensors()
    def __init__(
        self,
        scorer: Scorer | str | Path,
        prompt: str | Sequence[str],
        alternatives: Sequence[Sequence[str]] | None = None,
        *,
        scale: float | None = None,
        cosine: float = 0.2,
        views: Views = Views(),
        match: Match = "smooth",
        region: RegionLike | None = None,
    ) -> None:
        if scale is not None and not 0 < scale < float("inf"):
            raise ValueError(f"got scale {scale}, expected a finite number > 0")
        if not 0 <= cosine < float("inf"):
            raise ValueError(f"got cosine {cosine}, expected a finite number >= 0")
        super().__init__(ViewEncoder(as_scorer(scorer), views, match, region_of(region)))
        self.scale, self.cosine = scale, cosine
        prompts = [prompt] if isinstance(prompt, str) else [*prompt]
        others = _alternatives(prompts, alternatives, self.scorer.alternatives)
        if cosine == 0 and not all(others):
            alone = prompts[[bool(texts) for texts in others].index(False)]
            raise ValueError(f"got {alone!r} without alternatives, expected some, or cosine > 0")
        self._texts, self._absent = _contrasts(self.scorer, prompts, others)

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        seen = self.encoder.of_images(images, generators)
        return self._contrast(seen, self._scale(0.5 * self.scorer.logit_scale))

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """The same of noisy latents (B, C, h, w), for a scorer of latents; (B,)."""
        seen = self.encoder.of_latents(latents, sigma_bar, generators)
        of_level: Any = self.scorer  # a LatentScorer, as its embeddings were there
        return self._contrast(seen, self._scale(0.5 * float(of_level.scale_at(sigma_bar))))

    def _scale(self, own: float) -> float:
        return own if self.scale is None else self.scale

    def _contrast(self, seen: Tensor, scale: float) -> Tensor:
        """(B, V, D) -> (B,)."""
        rows = entry_of_each(len(seen), len(self._texts))
        cosines = torch.einsum("bvd,bkd->bvk", seen, self._texts[rows].to(seen))  # (B, V, K)
        absent = self._absent[rows].to(seen.device)[:, None]
        logits = (scale * cosines).masked_fill(absent, -torch.inf)
        return (logits.log_softmax(-1)[..., 0] + self.cosine * scale * cosines[..., 0]).mean(1)


def _contrasts(
    scorer: Scorer, prompts: Sequence[str], others: Sequence[Sequence[str]]
) -> tuple[Tensor, Tensor]:
    """Embeddings of each prompt and what it must be told from, (P, K, D), and which of them are not
    there, (P, K): a prompt with fewer alternatives is filled up."""
    rows = [(own, *wrong) for own, wrong in zip(prompts, others, strict=True)]
    texts = list(dict.fromkeys(text for row in rows for text in row))
    place = {text: i for i, text in enumerate(texts)}
    embedding = scorer.encode_text(texts).detach().float()  # (texts, D)
    widest = max(map(len, rows))
    found = torch.zeros(len(rows), widest, embedding.shape[1])
    absent = torch.ones(len(rows), widest, dtype=torch.bool)
    for i, row in enumerate(rows):
        found[i, : len(row)] = embedding[[place[text] for text in row]].to(found)
        absent[i, : len(row)] = False
    return found, absent


def _alternatives(
    prompts: Sequence[str], given: Sequence[Sequence[str]] | None, rules: Sequence[str]
) -> list[list[str]]:
    """The texts that each prompt must be told from."""
    if given is not None and (isinstance(given, str) or len(given) != len(prompts)):
        raise ValueError(
            f"got {len(given)} lists of alternatives for {len(prompts)} prompts, expected one each"
        )
    if given is not None and any(isinstance(row, str) for row in given):
        raise ValueError(f"got {given!r}, expected a list of alternatives for each prompt")
    others = (
        [alternatives_of(text, rules) for text in prompts]
        if given is None
        else [[*row] for row in given]
    )
    if not prompts or not all(text.strip() for row in (prompts, *others) for text in row):
        raise ValueError("got an empty prompt or alternative, expected some text")
    return others
