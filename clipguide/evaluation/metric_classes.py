"""CLIPScore and RefCLIPScore as `torchmetrics.Metric` classes, for loops that already hold those.

torchmetrics' own loses the end-of-text token of a caption above the context, divides float images
by 255 once more, and does not run on transformers 5; these score as `clipguide.evaluation` does.
Importing this module needs torchmetrics: `pip install 'clipguide[metrics]'`.

Hessel et al. 2021 (https://arxiv.org/abs/2104.08718), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from clipguide.clip.conventions import scale_of
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.evaluation.reference_scores import ref_clip_scores
from clipguide.extras import need

Metric: Any = need("torchmetrics", "metrics").Metric
Batch = Tensor | Sequence[Tensor]


class _Mean(Metric):  # pyright: ignore[reportUntypedBaseClass]
    """The mean over everything that was given, summed in float64, over all processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, scorer: Scorer | str) -> None:
        super().__init__()
        self._scorer = [load_scorer(scorer)]  # in a list: not one of the metric's own modules
        state: Any = self.add_state
        state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        state("count", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def scorer(self) -> Scorer:
        """By which it scores."""
        return self._scorer[0]

    def _add(self, scores: Tensor) -> None:
        self.total: Tensor = self.total + scores.double().sum().to(self.total.device)
        self.count: Tensor = self.count + len(scores)

    def compute(self) -> Tensor:
        """The mean. ValueError where nothing was given."""
        if int(self.count) == 0:
            raise ValueError("got no images, expected update(images, captions) before compute()")
        return (self.total / self.count).float()


class CLIPScore(_Mean):
    """The mean CLIP score of images with their captions.

    Args:
        scorer: as `load_scorer` takes it.
        convention: one of `clipguide.clip.conventions.CONVENTIONS`; "torchmetrics" is 100·max(cos,
            0) without a prefix, the number torchmetrics' own means; "clipscore" is 2.5·max(cos, 0)
            behind "A photo depicts".

    Example:
        metric = CLIPScore("open_clip:ViT-B-32/openai")
        metric.update(torch.rand(2, 3, 224, 224), ["a fox", "a cat"])
        metric.compute()
    """

    def __init__(self, scorer: Scorer | str, convention: str = "torchmetrics") -> None:
        super().__init__(scorer)
        self.convention = convention
        self._scale = scale_of(self.scorer, convention)

    @torch.no_grad()
    def update(self, images: Batch, captions: str | Sequence[str]) -> None:
        """Adds a batch.

        Args:
            images: (B, 3, H, W) or a list of (3, H, W); floats in [0, 1], or uint8.
            captions: one for each.

        Raises:
            ValueError: as `Scorer.score`.
        """
        texts = [captions] if isinstance(captions, str) else [*captions]
        texts = [self._scale.text(text) for text in texts]
        self._add(self._scale.of(self.scorer.score(_floats(images), texts)))


class RefCLIPScore(_Mean):
    """The mean RefCLIPScore: `clipguide.evaluation.reference_scores.ref_clip_scores`.

    Args:
        scorer: as `load_scorer` takes it.

    Example:
        metric = RefCLIPScore("open_clip:ViT-B-32/openai")
        metric.update(torch.rand(1, 3, 224, 224), ["a fox"], [["a red fox", "an animal"]])
        metric.compute()
    """

    @torch.no_grad()
    def update(
        self, images: Batch, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> None:
        """Adds a batch; `references`: one or more texts for each image.

        Raises:
            ValueError: as `ref_clip_scores`.
        """
        self._add(ref_clip_scores(self.scorer, _floats(images), captions, references))


def _floats(images: Batch) -> Tensor | list[Tensor]:
    """uint8 as floats in [0, 1]; floats as they are."""
    if isinstance(images, Tensor):
        whole = images if images.ndim == 4 else images.unsqueeze(0)
        return whole.float() / 255 if whole.dtype == torch.uint8 else whole
    return [cast(Tensor, _floats(image))[0] for image in images]
