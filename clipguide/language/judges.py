"""Captioners as judges of a picture against a text: they write, or say how likely the text is.

A judge that is no CLIP has another objective than the CLIP that guided. Both give no gradient.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.backbones import TextBackbone, load_text
from clipguide.clip.cross_encoder import CrossEncoderModel
from clipguide.clip.loading import BUNDLED, SCHEMES, load_scorer
from clipguide.images import pixel_hash
from clipguide.language.captioner import Captioner
from clipguide.language.loading import load_captioner

Encode = Callable[[Sequence[str]], Tensor]
"""Texts -> (P, D) unit vectors."""

TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""Of `caption-back` where no other is named after an @."""
CAPTIONS = 3
"""Captions of which the nearest to the text counts."""
ALPHA = 1.0
"""How much of log p(text) is taken away where nothing else is named after an @; 0 is none of it."""
_NOISES = 3
_KEPT = 256


class CaptionBack(CrossEncoderModel):
    """Captions the picture and compares with the text: the largest cosine of the best captions.

    As in Hong et al. 2018 (https://arxiv.org/abs/1801.05091, section 5.1), with vectors in the
    place of BLEU.

    Args:
        name: what the user called it.
        captioner: writes, by beams.
        encode: of the texts.
        encoder: its name.
    """

    bounds = (-1.0, 1.0)

    def __init__(self, name: str, captioner: Captioner, encode: Encode, encoder: str) -> None:
        told = f"largest cosine of the text and one of {CAPTIONS} captions by {encoder}"
        super().__init__(name, captioner.module, f"caption-back: {told}")
        self._captioner, self._encode = captioner, encode
        self._captions: OrderedDict[str, list[str]] = OrderedDict()

    def probability(self, image: Image.Image, text: str) -> float:
        """The cosine, in [-1, 1]."""
        vectors = self._encode([text, *self.captions(image)])
        return float((vectors[1:] @ vectors[0]).max())

    def captions(self, image: Image.Image) -> list[str]:
        """What is written of a picture; kept for the next text."""
        key = pixel_hash(image)
        if key not in self._captions:
            written = self._captioner.caption([image], CAPTIONS)[0]
            found = [one.text for one in written if one.text.strip()]
            if not found:
                raise ValueError(f"{self.name}: got no caption of a picture, expected one or more")
            self._captions[key] = found
            if len(self._captions) > _KEPT:
                self._captions.popitem(last=False)
        return self._captions[key]


class LogProbability(CrossEncoderModel):
    """log p(text | image) - alpha log p(text), in nats a token.

    Lin et al. 2024, Revisiting the Role of Language Priors in Vision-Language Models
    (https://arxiv.org/abs/2306.01879), Eq. 7: log p(text) is that of the mean probability over
    pictures of noise alone (section 5, three of them).

    Args:
        name: what the user called it.
        captioner: whose probabilities they are.
        alpha: 0 to 1.

    Raises:
        ValueError: another alpha.
    """

    bounds = (-math.inf, math.inf)

    def __init__(self, name: str, captioner: Captioner, alpha: float = ALPHA) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"{name}: got alpha {alpha}, expected 0 to 1")
        told = f"(log p(text | image) - {alpha:g} log p(text)) / tokens, in nats"
        super().__init__(name, captioner.module, f"log-prob: {told}")
        self._captioner, self.alpha = captioner, alpha
        self._priors: dict[str, float] = {}

    def probability(self, image: Image.Image, text: str) -> float:
        """The difference, any number."""
        found = self._captioner.log_prob([image], [text])
        sentence, token = float(found.sentence), float(found.token)
        prior = self.prior(text) if self.alpha else 0.0
        return token * (1 - self.alpha * prior / sentence) if sentence else 0.0

    def prior(self, text: str) -> float:
        """log p(text), the sentence's; kept for the next picture."""
        if text not in self._priors:
            logs = self._captioner.log_prob(_noises(), [text] * _NOISES).sentence
            self._priors[text] = float(logs.double().logsumexp(0) - math.log(_NOISES))
        return self._priors[text]


@cache
def _noises() -> list[Image.Image]:
    """Pictures of noise of mean 0.4 and deviation 0.25, as the paper has them; always the same."""
    source = torch.Generator().manual_seed(0)
    pixels = torch.randn(_NOISES, 224, 224, 3, generator=source) * 0.25 + 0.4
    return [Image.fromarray((one.clamp(0, 1) * 255).byte().numpy()) for one in pixels]


def text_encoder(name: str) -> Encode:
    """Unit vectors of texts: of a scorer by name, or the mean of the tokens of a transformers text
    encoder, a folder or a Hub repository.

    Raises:
        ValueError: it cannot be loaded.
    """
    if name in BUNDLED or name.partition(":")[0] in SCHEMES:
        return load_scorer(name).encode_text
    module, tokenizer = load_text(name)
    backbone: nn.Module = TextBackbone(module, "mean").eval().requires_grad_(False)

    def encode(texts: Sequence[str]) -> Tensor:
        batch = tokenizer([*texts], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            vectors: Tensor = backbone(batch["input_ids"], batch["attention_mask"])
        return functional.normalize(vectors.float(), dim=-1)

    return encode


def load_caption_back(name: str, source: str, dtype: torch.dtype) -> CaptionBack:
    """CAPTIONER, or CAPTIONER@ENCODER (see `text_encoder`)."""
    captioner, _, encoder = source.partition("@")
    encoder = encoder or TEXT_ENCODER
    return CaptionBack(name, load_captioner(captioner, dtype=dtype), text_encoder(encoder), encoder)


def load_log_probability(name: str, source: str, dtype: torch.dtype) -> LogProbability:
    """CAPTIONER, or CAPTIONER@ALPHA."""
    captioner, at, alpha = source.rpartition("@")
    if not at:
        captioner, alpha = source, str(ALPHA)
    try:
        share = float(alpha)
    except ValueError:
        raise ValueError(f"{name}: got alpha {alpha!r} after @, expected a number") from None
    return LogProbability(name, load_captioner(captioner, dtype=dtype), share)
