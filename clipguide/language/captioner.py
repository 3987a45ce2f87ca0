"""What every captioner does: write captions of images, and say how likely a text is."""

from __future__ import annotations

import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.batching import batches, slices
from clipguide.clip.image_arrays import Images, as_images
from clipguide.clip.scorer import check_prompts
from clipguide.images import load_image, to_pil

METHODS = ("greedy", "beam", "sample")
"""How the next word is chosen: the likeliest; the likeliest sentences of several kept; drawn."""
BATCH = 16
"""Images that are captioned at once."""
BEAMS = 3
LONGEST = 30
"""Tokens that a caption has at most."""


class DoubtfulCaption(UserWarning):
    """A caption that is empty, or says one thing over and over."""


@dataclass(frozen=True)
class Written:
    """A caption that was written.

    Attributes:
        text: the caption.
        log_prob: of the sentence, its end included, in nats.
        tokens: how many it has, the end included.
    """

    text: str
    log_prob: float
    tokens: int


@dataclass(frozen=True)
class LogProb:
    """How likely texts are.

    Attributes:
        sentence: (B,) in nats, the end of the text included.
        token: (B,) the same by the number of tokens.
    """

    sentence: Tensor
    token: Tensor


@dataclass(frozen=True)
class Request:
    """How captions are written.

    Attributes:
        count: captions of each image, the best first.
        method: one of `METHODS`.
        beams: sentences that are kept by "beam", at least `count`.

    Raises:
        ValueError: another method, a count below 1, several captions of "greedy".
    """

    count: int = 1
    method: str = "beam"
    beams: int = BEAMS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"got method {self.method!r}, expected one of {[*METHODS]}")
        if self.count < 1 or self.beams < 1:
            raise ValueError(f"got count {self.count} and beams {self.beams}, expected 1 or more")
        if self.method == "greedy" and self.count > 1:
            raise ValueError(f"got count {self.count} of method greedy, expected beam or sample")

    @property
    def width(self) -> int:
        """Sentences kept at once of each image."""
        return max(self.beams, self.count) if self.method == "beam" else 1


class Captioner(ABC):
    """Writes captions of images; `clipguide.language.loading.load_captioner` returns one.

    Images are what `clipguide.clip.scorer.Scorer` takes: PIL images, paths, tensors (B,3,H,W) in
    [0, 1], arrays. It gives no gradient.

    Args:
        name: what the user called it.
        module: the model; frozen from then on.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.module.parameters()).device

    @abstractmethod
    def write(
        self, images: Sequence[Image.Image], request: Request, generator: torch.Generator | None
    ) -> list[list[Written]]:
        """Of each image `request.count` captions, the likeliest first."""

    @abstractmethod
    def likelihood(self, images: Sequence[Image.Image], texts: Sequence[str]) -> LogProb:
        """Of text i given image i."""

    @torch.no_grad()
    def caption(
        self,
        images: Images,
        count: int = 1,
        method: str = "beam",
        generator: torch.Generator | None = None,
        *,
        beams: int = BEAMS,
    ) -> list[list[Written]]:
        """Captions of each image, the likeliest first, each with its log-probability.

        Args:
            images: what is to be described.
            count: captions of each.
            method: "greedy", "beam" or "sample".
            generator: of the draws of "sample", needed there; the same seed, the same captions.
            beams: sentences kept by "beam".

        Cost: one pass of the image tower for each image, one of the decoder for each token.

        Raises:
            ImageError, ValueError: an image that cannot be read; see `Request`; "sample" without a
                generator.

        Warns:
            DoubtfulCaption: an empty caption, or one that repeats itself.

        Example:
            >>> from clipguide.language.loading import load_captioner
            >>> captioner = load_captioner("hf:Salesforce/blip-image-captioning-base")
            >>> text = captioner.caption(["photo.jpg"])[0][0].text
        """
        request = Request(count, method, beams)
        if method == "sample" and generator is None:
            raise ValueError("got method sample without a generator, expected one")
        found: list[list[Written]] = []
        for some in batches(pictures_of(images), BATCH):
            found += self.write(some, request, generator)
        for written in (one for several in found for one in several):
            reason = doubt_of(written.text)
            if reason:
                warnings.warn(f"{self.name}: {reason}", DoubtfulCaption, stacklevel=2)
        return found

    @torch.no_grad()
    def log_prob(self, images: Images, texts: str | Sequence[str]) -> LogProb:
        """How likely text i is of image i, in nats, for the sentence and for a token of it.

        Args:
            images: B images.
            texts: B texts; a single string is every image's.

        Cost: one pass of the model for each.

        Raises:
            ImageError, ValueError: an image that cannot be read; empty texts, or not as many.
        """
        shown = pictures_of(images)
        asked = check_prompts([texts] * len(shown) if isinstance(texts, str) else texts)
        if len(asked) != len(shown):
            raise ValueError(f"got {len(shown)} images and {len(asked)} texts, expected as many")
        parts = slices(len(shown), BATCH)
        found = [self.likelihood(shown[part], asked[part]) for part in parts]
        return LogProb(
            torch.cat([one.sentence for one in found]), torch.cat([one.token for one in found])
        )


def pictures_of(images: Images) -> list[Image.Image]:
    """Images of any kind as PIL images."""
    found = as_images(images)
    listed = [*found.split(1)] if isinstance(found, Tensor) else found
    return [to_pil(one)[0] if isinstance(one, Tensor) else load_image(one) for one in listed]


_OVER_AND_OVER = re.compile(r"(\b\S+(?: \S+){0,3}?)(?: \1){3,}(?= |$)")


def doubt_of(caption: str) -> str:
    """What is wrong with a caption by itself: that it is empty, or says one thing four times and
    more in a row; "" where nothing is.

    Example:
        >>> doubt_of("a dog and a dog and a dog and a dog and a dog")
        "got a caption that repeats 'a dog and'"
    """
    words = " ".join(caption.lower().split())
    if not any(letter.isalnum() for letter in words):
        return f"got a caption without words, {caption!r}"
    found = _OVER_AND_OVER.search(words)
    return f"got a caption that repeats {found[1]!r}" if found else ""
