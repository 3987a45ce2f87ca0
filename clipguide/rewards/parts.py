"""The parts reward: each thing of a prompt against the picture, or against a part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.data.prompt_parts import parts_of
from clipguide.rewards.base import Generators
from clipguide.rewards.probes import of_samples
from clipguide.rewards.region import Region, RegionLike, region_of
from clipguide.rewards.view_encoder import (
    ScorerReward,
    ViewEncoder,
    as_scorer,
    cosine_guidance,
    entry_of_each,
)
from clipguide.rewards.views import Views

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer

Join = Callable[[Tensor, float], Tensor]
"""(cosines (B, K) of K parts, the scorer's factor on cosines) -> (B,)."""


def mean(cosines: Tensor, scale: float) -> Tensor:
    """Σ c / K."""
    return cosines.mean(1)


def product(cosines: Tensor, scale: float) -> Tensor:
    """Π (1 + c)/2, in [0, 1]: every part pulls, the weaker the harder."""
    return ((1 + cosines) / 2).prod(1)


def softmin(cosines: Tensor, scale: float) -> Tensor:
    """-log(Σ exp(-scale·c) / K) / scale, between the least and the mean: the weakest pulls."""
    return -((-scale * cosines).logsumexp(1) - torch.tensor(cosines.shape[1]).log()) / scale


JOINS: dict[str, Join] = {"mean": mean, "product": product, "softmin": softmin}


class PartsReward(ScorerReward):
    """The cosines c of a picture to the parts of its prompt, joined to one number.

    - "mean": Σ c / K;
    - "product": Π (1 + c)/2;
    - "softmin": -log(Σ exp(-s·c) / K) / s, s being the scorer's factor on cosines (of a scorer of
      latents that at its noise level): almost the least of them, and almost the whole gradient is
      that of the weakest part.

    A cosine to the whole prompt is satisfied by one part drawn well; these ask for every one.

    Args:
        scorer: what `load_scorer` returns, or a name for it; one of latents makes the reward read
            latents.
        prompt: a text for the whole batch, or one per prompt of the batch; entry i goes with images
            i·n .. i·n+n-1, as diffusers orders `num_images_per_prompt=n`.
        parts: the texts to ask for, for several prompts a list for each; None: the things that the
            prompt names, by `clipguide.data.prompt_parts.parts_of`.
        regions: where each part belongs, in the form of `parts`: (x0, y0, x1, y1) in fractions of
            width and height, a mask (h, w), or None for the whole picture; None: everywhere.
        join: one of `JOINS`.
        views: random crops, flips and noise of what a part sees; its cosine is their mean.

    Cost: one pass of the image tower over B·views.count images for every region; parts that are
        asked of the whole picture share one.

    Raises:
        ValueError: an unknown join, an empty prompt or part, not one list of parts for each prompt,
            not one region for each part.

    Example:
        >>> reward = PartsReward(scorer, "a red cube left of a blue ball", join="softmin")
        >>> left, right = (0, 0, 0.5, 1), (0.5, 0, 1, 1)
        >>> placed = PartsReward(
        ...     scorer, "a red cube left of a blue ball", regions=[left, right], join="softmin"
        ... )

    Source: attributes bound to parts as in Composable Diffusion, Liu et al. 2022 (section 3,
    https://arxiv.org/abs/2206.01714, there of scores: its conjunction is the product), and the
    neglected part first as in Attend-and-Excite, Chefer et al. 2023 (section 3.2,
    https://arxiv.org/abs/2301.13826), smoothed.
    """

    per_prompt = "_texts _places parts"

    @ordinary_tensors()
    def __init__(
        self,
        scorer: Scorer | str | Path,
        prompt: str | Sequence[str],
        parts: Sequence[str] | Sequence[Sequence[str]] | None = None,
        regions: Sequence[Any] | None = None,
        join: str = "mean",
        *,
        views: Views = Views(),
    ) -> None:
        if join not in JOINS:
            raise ValueError(f"got join {join!r}, expected one of {', '.join(JOINS)}")
        prompts = [prompt] if isinstance(prompt, str) else [*prompt]
        if not prompts or not all(text.strip() for text in prompts):
            raise ValueError("got an empty prompt, expected some text")
        super().__init__(ViewEncoder(as_scorer(scorer), views))
        self.join = join
        self.parts: list[list[str]] = _parts(prompts, parts, single=isinstance(prompt, str))
        self._places = _regions(self.parts, regions, single=isinstance(prompt, str))
        self._texts = [
            # one by one: a text's last bit must not depend on the batch it is in
            torch.cat([self.scorer.encode_text(text).detach().float() for text in row])  # (K, D)
            for row in self.parts
        ]

    @property
    def guidance(self) -> dict[str, Any]:
        """The scorer's own, for cosines, as `ClipReward.guidance`."""
        return cosine_guidance(self.scorer)

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        def look(encoder: ViewEncoder, rows: list[int]) -> Tensor:
            return encoder.of_images(images[rows], _of_rows(generators, rows))

        return self._joined(len(images), look, self.scorer.logit_scale)

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """The same of noisy latents (B, C, h, w), for a scorer of latents; (B,)."""

        def look(encoder: ViewEncoder, rows: list[int]) -> Tensor:
            return encoder.of_latents(latents[rows], sigma_bar, _of_rows(generators, rows))

        of_level: Any = self.scorer  # a LatentScorer, or its encoder refuses the latents
        scale = float(of_level.scale_at(sigma_bar)) if self.reads == "latents" else 1.0
        return self._joined(len(latents), look, scale)

    def _joined(self, batch: int, look: Look, scale: float) -> Tensor:
        """Every region is looked at once, by all images that have a part there."""
        entries: list[int] = entry_of_each(batch, len(self._texts)).tolist()
        cosines: list[dict[int, Tensor]] = [{} for _ in entries]  # of each image, part k's
        for region, wanted in self._by_region():
            rows = [row for row, entry in enumerate(entries) if entry in wanted]
            with of_samples(rows):
                seen = look(replace(self.encoder, region=region), rows)  # (n, V, D)
            for row, vectors in zip(rows, seen, strict=True):
                own = wanted[entries[row]]
                found = (vectors @ self._texts[entries[row]][own].to(vectors).T).mean(0)  # (k,)
                cosines[row] |= zip(own, found, strict=True)
        joined = [
            JOINS[self.join](torch.stack([own[k] for k in range(len(own))])[None], scale)
            for own in cosines
        ]
        return torch.cat(joined)

    def _by_region(self) -> Iterator[tuple[Region | None, dict[int, list[int]]]]:
        """Each region once, with the parts of each entry that are asked of it."""
        found: dict[Any, tuple[Region | None, dict[int, list[int]]]] = {}
        for entry, row in enumerate(self._places):
            for part, region in enumerate(row):
                key = None if region is None else region.box or id(region)
                found.setdefault(key, (region, {}))[1].setdefault(entry, []).append(part)
        yield from found.values()


Look = Callable[[ViewEncoder, list[int]], Tensor]
"""(how it looks, rows of the batch) -> unit vectors (n, V, D) of the views of those rows."""


def _of_rows(generators: Generators | None, rows: list[int]) -> Generators | None:
    return None if generators is None else [generators[row] for row in rows]


def _parts(prompts: Sequence[str], given: Any, *, single: bool) -> list[list[str]]:
    """The parts of each prompt."""
    if given is None:
        return [parts_of(text) for text in prompts]
    rows = [given] if single else [*given]
    if len(rows) != len(prompts):
        raise ValueError(f"got {len(rows)} lists of parts, expected {len(prompts)}: one per prompt")
    if any(isinstance(row, str) for row in rows):
        raise ValueError(f"got parts {given!r}, expected a list of texts for each prompt")
    texts = [[*row] for row in rows]
    for row in texts:
        if not row or not all(isinstance(text, str) and text.strip() for text in row):
            raise ValueError(f"got parts {row!r}, expected one text or more, none of them empty")
    return texts


def _regions(texts: list[list[str]], given: Any, *, single: bool) -> list[list[Region | None]]:
    """The region of each part of each prompt."""
    if given is None:
        return [[None] * len(row) for row in texts]
    rows: list[list[RegionLike | None]] = [[*given]] if single else [[*row] for row in given]
    counts, expected = [len(row) for row in rows], [len(row) for row in texts]
    if counts != expected:
        raise ValueError(
            f"got {counts} regions, expected {expected}: one for each of the parts {texts}"
        )
    return [[region_of(one) for one in row] for row in rows]
