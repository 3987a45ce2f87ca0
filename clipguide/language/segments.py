"""Where a phrase is in a picture: a mask from words."""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clipguide.batching import batches
from clipguide.clip.cross_encoder_loading import load_module, model_parts
from clipguide.clip.finite import check_weights_finite
from clipguide.clip.hub import NO_CODE
from clipguide.clip.image_arrays import Images
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.loading import load_scorer
from clipguide.clip.refusals import refusing
from clipguide.clip.scorer import Scorer, check_prompts
from clipguide.data.hard_negatives import HUES
from clipguide.images import to_tensor
from clipguide.language.captioner import pictures_of

SCHEME = "clipseg:"
FOUND = 0.5
"""Probability that some place must have, or the phrase is nowhere."""
NEUTRAL = "a photo"
_SHARE, _STEPS, _GRID = 0.25, 11, 64


class PhraseNotFound(UserWarning):
    """A phrase that is nowhere in a picture: its mask is empty."""


class Segmenter(ABC):
    """Gives each place of a picture the probability of showing a phrase; no gradient."""

    name: str

    @abstractmethod
    def probabilities(self, images: Sequence[Image.Image], phrase: str) -> Tensor:
        """(B, 1, h, w) in [0, 1]; h and w are the model's."""

    @torch.no_grad()
    def segment(self, images: Images, phrase: str) -> Tensor:
        """A mask of the phrase in each image, (B, 1, h, w) float32 in [0, 1], rows from the top.

        `mask[i, 0]` is what `region=` of a reward takes. A phrase that is nowhere, no place having
        a probability of `FOUND`, has a mask of zeros.

        Cost: one pass of the model an image (CLIPSeg), or of a scorer for each of 121 windows.

        Raises:
            ImageError, ValueError: an image that cannot be read, an empty phrase.

        Warns:
            PhraseNotFound: names the phrase and the image's place.

        Example:
            >>> segmenter = load_segmenter("clipseg:CIDAS/clipseg-rd64-refined")
            >>> mask = segmenter.segment("photo.jpg", "the red star")
        """
        (asked,) = check_prompts([phrase])
        single = isinstance(images, str | Image.Image)
        shown = pictures_of([images] if single else images)  # pyright: ignore[reportArgumentType]
        found = self.probabilities(shown, asked).float().cpu()
        for place, mask in enumerate(found):
            if float(mask.max()) < FOUND:
                told = f"{self.name}: found {phrase!r} nowhere in image {place}"
                warnings.warn(told, PhraseNotFound, stacklevel=2)
                mask.zero_()
        return found


class ClipSegmenter(Segmenter):
    """CLIPSeg (Lüddecke and Ecker 2022, https://arxiv.org/abs/2112.10003) of transformers.

    Args:
        name: what the user called it.
        module: `CLIPSegForImageSegmentation`, its weights loaded; frozen from then on.
        image_processor, tokenizer: its own.
    """

    def __init__(self, name: str, module: Any, image_processor: Any, tokenizer: Any) -> None:
        self.name, self._model = name, module.eval().requires_grad_(False)
        self._image_processor, self._tokenizer = image_processor, tokenizer

    def probabilities(self, images: Sequence[Image.Image], phrase: str) -> Tensor:
        pixels: Tensor = self._image_processor(images=[*images], return_tensors="pt")[
            "pixel_values"
        ]
        tokens: Any = self._tokenizer([phrase] * len(images), return_tensors="pt")
        weight = next(self._model.parameters())
        logits: Tensor = self._model(
            input_ids=tokens["input_ids"].to(weight.device),
            attention_mask=tokens["attention_mask"].to(weight.device),
            pixel_values=pixels.to(weight.device, weight.dtype),
        ).logits
        return logits.float().sigmoid().view(len(images), 1, *logits.shape[-2:])


class WindowSegmenter(Segmenter):
    """Any CLIP, looking through windows: a place has the mean of the windows that show it, so
    scaled that the highest place has the highest window's number.

    A window is shown where it is, in the picture's median colour: enlarged to the whole picture, a
    thing would be larger than a CLIP of small pictures ever saw it. A window's number is the
    probability of the phrase against other texts, the softmax of the scorer's scaled cosines.

    Args:
        scorer: the CLIP.
        against: the other texts; None: `NEUTRAL`, and the phrase in every other colour where it
            names one.
    """

    def __init__(self, scorer: Scorer, against: Sequence[str] | None = None) -> None:
        self.name, self._scorer, self._against = scorer.name, scorer, against

    def probabilities(self, images: Sequence[Image.Image], phrase: str) -> Tensor:
        others = others_of(phrase) if self._against is None else [*self._against]
        texts = self._scorer.encode_text([phrase, *others])  # (P, D)
        return torch.stack([self._of_one(image, texts) for image in images])

    def _of_one(self, image: Image.Image, texts: Tensor) -> Tensor:
        pixels = to_tensor(image)  # (1, 3, H, W)
        boxes = windows(pixels.shape[-2], pixels.shape[-1])
        blank = pixels.flatten(2).median(dim=2).values[0, :, None, None].expand_as(pixels[0])
        rows: list[Tensor] = []
        for some in batches(boxes, _STEPS):  # a row at a time: all are 121 pictures
            shown = blank.repeat(len(some), 1, 1, 1)
            for picture, (y, x, h, w) in zip(shown, some, strict=True):
                picture[:, y : y + h, x : x + w] = pixels[0, :, y : y + h, x : x + w]
            rows.append(self._scorer.encode_image(shown))
        cosines = torch.cat(rows) @ texts.T
        values = (cosines * self._scorer.logit_scale).softmax(dim=-1)[:, 0].cpu()
        total = torch.zeros(1, 1, *pixels.shape[-2:])
        count = torch.zeros_like(total)
        for (y, x, h, w), value in zip(boxes, values, strict=True):
            total[..., y : y + h, x : x + w] += value
            count[..., y : y + h, x : x + w] += 1
        mean = total / count
        scaled = mean / mean.max().clamp(min=1e-12) * values.max()
        return functional.interpolate(scaled, (_GRID, _GRID), mode="area")[0]


def windows(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of overlapping windows that cover a picture, row by row."""
    rows, columns = max(1, round(height * _SHARE)), max(1, round(width * _SHARE))
    tops = [round(step * (height - rows) / (_STEPS - 1)) for step in range(_STEPS)]
    lefts = [round(step * (width - columns) / (_STEPS - 1)) for step in range(_STEPS)]
    return [(top, left, rows, columns) for top in tops for left in lefts]


def others_of(phrase: str) -> list[str]:
    """Texts that a window may show instead of a phrase.

    Example:
        >>> others_of("a red hat")[:2]
        ['a photo', 'a beige hat']
    """
    hue = re.search(rf"\b(?:{'|'.join(sorted(HUES))})\b", phrase.lower())
    if hue is None:
        return [NEUTRAL]
    others = [color for color in sorted(HUES) if color != hue.group()]
    return [NEUTRAL, *(phrase[: hue.start()] + one + phrase[hue.end() :] for one in others)]


@ordinary_tensors()
def load_segmenter(name: str, *, device: str | torch.device = "cpu") -> Segmenter:
    """A segmenter by name.

    Args:
        name: "clipseg:" and a Hub repository or a folder with CLIPSeg of transformers; or what
            `load_scorer` takes (a CLIP, which looks through windows).
        device: where the model shall be.

    Raises:
        ValueError: an unknown name, or a model that cannot be loaded.
    """
    if not name.startswith(SCHEME):
        return WindowSegmenter(load_scorer(name, device=device))
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPSegForImageSegmentation

    with refusing(name):
        folder = model_parts(name, name.removeprefix(SCHEME), kind="clipseg")
        module = load_module(name, folder, CLIPSegForImageSegmentation, torch.float32)
        image_processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    check_weights_finite(name, module)
    return ClipSegmenter(name, module.to(device), image_processor, tokenizer)


def mask_picture(mask: Tensor, size: tuple[int, int], grow: int = 0) -> Image.Image:
    """A mask (1, h, w) in [0, 1] as a picture of (width, height), white where the phrase is: places
    of `FOUND` and more, and those so many pixels beside one.

    Raises:
        ValueError: fewer than 0 pixels.
    """
    if grow < 0:
        raise ValueError(f"got grow {grow}, expected pixels, 0 or more")
    whole = functional.interpolate(mask[None], (size[1], size[0]), mode="bilinear")
    white = (whole >= FOUND).float()
    for window, edge in (((1, 2 * grow + 1), (0, grow)), ((2 * grow + 1, 1), (grow, 0))):
        white = functional.max_pool2d(white, window, stride=1, padding=edge)
    return Image.fromarray((white[0, 0] * 255).byte().numpy())
