"""The door in front of a cross-encoder: no CLIP, it reads image and text together.

A score in the units of one more CLIP says little about pictures that a CLIP has guided; these
models have other objectives. They give a probability per pair, no vectors and no gradient, so they
score and rank, and guidance and search refuse them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NoReturn

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.clip.image_arrays import Images, as_images, count_images, name_of
from clipguide.clip.named_module import NamedModule
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer, check_prompts
from clipguide.images import ImageSource, load_image, to_pil


class CrossEncoderModel(NamedModule, ABC):
    """A model that gives a probability to an image with a text (see `ClipModel`, which it is not).

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        convention: what its number is: name, formula, template and tokens counted, in one line.
    """

    noise_aware = False
    bounds: tuple[float, float] = (0.0, 1.0)
    """Between which its numbers lie; of a probability 0 and 1."""

    def __init__(self, name: str, module: nn.Module, convention: str) -> None:
        super().__init__(name, module)
        self.convention = convention

    @abstractmethod
    def probability(self, image: Image.Image, text: str) -> float:
        """Of the image showing the text, in [0, 1]; one pass of the model."""

    def refuse(self) -> NoReturn:
        """For all that needs vectors."""
        raise ValueError(
            f"{self.name}: is a cross-encoder, which has no vectors and no gradients, expected a "
            "CLIP here (as --scorer); it takes part as --judge, and in score and rerank"
        )

    @property
    def preprocess(self) -> Preprocess:
        self.refuse()

    @property
    def context_length(self) -> int:
        self.refuse()

    @property
    def logit_scale(self) -> float:
        self.refuse()

    @property
    def embed_dim(self) -> int:
        self.refuse()

    def encode_image(self, pixels: Tensor) -> Tensor:
        self.refuse()

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        self.refuse()


class CrossEncoder(Scorer):
    """Scores images against texts by a model that reads both together; `load_scorer` returns it.

    `convention` says in one line what the number is, and goes into every output with it.

    Args:
        model: its adapter, whose parameters are frozen from then on.

    Cost: one pass of the model per image and text, each alone: a number does not depend on what is
    scored beside it.

    Example:
        >>> scorer = load_scorer("itm:Salesforce/blip-itm-base-coco")
        >>> scorer.score(["fox.png", "cat.png"], "a red fox").shape
        torch.Size([2])
    """

    def __init__(self, model: CrossEncoderModel) -> None:
        super().__init__(model)
        self._cross_encoder = model
        self.convention = model.convention

    def __repr__(self) -> str:
        return f"CrossEncoder({self.name!r}, device={str(self.device)!r})"

    def refuse(self) -> NoReturn:
        """The error of all that needs vectors or a gradient."""
        self._cross_encoder.refuse()

    def encode_image(self, images: object, **options: object) -> NoReturn:
        """Refused: it has no vectors."""
        self.refuse()

    def encode_text(self, prompts: object) -> NoReturn:
        """Refused: it has no vectors."""
        self.refuse()

    def score(self, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """(B,) probabilities, image i with prompt i; a single string is every image's prompt.

        Raises:
            ImageError, ValueError: as `Scorer.score`; a probability that is not finite (whose).
        """
        count = count_images(images)
        texts = check_prompts([prompts] * count if isinstance(prompts, str) else prompts)
        if len(texts) != count:
            raise ValueError(f"got {count} images and {len(texts)} prompts, expected as many")
        return torch.cat(self.score_each(images, [[text] for text in texts]))

    def similarity(self, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """(B, P) probabilities of all pairs; otherwise as `score`."""
        texts = check_prompts([prompts] if isinstance(prompts, str) else prompts)
        return torch.stack(self.score_each(images, [texts] * count_images(images)))

    def score_each(self, images: Images, texts: Sequence[Sequence[str]]) -> list[Tensor]:
        """For each image the (P,) probabilities with its own texts."""
        found = as_images(images)
        listed = [*found.split(1)] if isinstance(found, Tensor) else found
        if len(listed) != len(texts):
            raise ValueError(f"got {len(listed)} images and texts for {len(texts)}, expected both")
        return [
            torch.tensor([self._one(image, text, place) for text in check_prompts(own)])
            for place, (image, own) in enumerate(zip(listed, texts, strict=True))
        ]

    @torch.no_grad()
    def _one(self, source: ImageSource | Tensor, text: str, place: int) -> float:
        image = to_pil(source)[0] if isinstance(source, Tensor) else load_image(source)
        value = self._cross_encoder.probability(image, text)
        low, high = self._cross_encoder.bounds
        if not low - 1e-6 <= value <= high + 1e-6 or value in (math.inf, -math.inf):  # NaN too
            what = "probability" if low == 0 else "score"
            told = f"{low:g} to {high:g}" if high < math.inf else "a finite number"
            whose = name_of(source, place)
            raise ValueError(f"{self.name}: got {what} {value} for {whose}, expected {told}")
        return value
