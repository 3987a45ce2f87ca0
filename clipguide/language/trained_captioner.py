"""A captioner that was trained here: what sees, the words, what writes."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.images import pixel_hash
from clipguide.language.captioner import LONGEST, Captioner, LogProb, Request, Written
from clipguide.language.decoder import Decoder, token_log_probs
from clipguide.language.decoding import Sentence, write_sentences
from clipguide.language.sight import Sight
from clipguide.language.vocabulary import END, PAD, Vocabulary

_SHORT, _KEPT = 4, 8  # pictures in a list, lists


class UnknownWord(UserWarning):
    """A text with a word that a captioner was not taught."""


@dataclass(frozen=True)
class Looked:
    """A caption, and where the model looked for each of its words.

    Attributes:
        words: of the caption.
        places: (T, h, w) that sum up to 1 for each word; h and w of the model's grid.
    """

    words: list[str]
    places: Tensor


class TrainedCaptioner(Captioner):
    """A captioner of `clipguide train`.

    Args:
        name: what the user called it.
        sight: what sees; frozen.
        vocabulary: the words.
        decoder: what writes.

    Attributes:
        word_penalty: what a word costs where a sentence is sought (`write_sentences`); a run of
            training picks it on dev.
    """

    word_penalty = 0.0

    def __init__(self, name: str, sight: Sight, vocabulary: Vocabulary, decoder: Decoder) -> None:
        super().__init__(name, nn.ModuleList([sight.module, decoder]))
        self.sight, self.vocabulary, self.decoder = sight, vocabulary, decoder
        self._seen: OrderedDict[str, Tensor] = OrderedDict()

    def see(self, images: Sequence[Image.Image]) -> Tensor:
        """(B, N, C) of images; kept of the last few short lists, which are asked about again: a
        judge has many texts for a picture, and pictures of noise for every text."""
        if len(images) > _SHORT:
            return self._see(images)
        key = f"{self.device} " + " ".join(pixel_hash(image) for image in images)
        if key not in self._seen:
            self._seen[key] = self._see(images)
            if len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        self._seen.move_to_end(key)
        return self._seen[key]

    def _see(self, images: Sequence[Image.Image]) -> Tensor:
        pixels = torch.stack([self.sight.preprocess.from_pil(image) for image in images])
        return self.sight.encode(self.sight.preprocess.normalize(pixels.float().div(255)))

    def write(
        self, images: Sequence[Image.Image], request: Request, generator: torch.Generator | None
    ) -> list[list[Written]]:
        return self.write_seen(self.see(images), request, generator)

    def write_seen(
        self, seen: Tensor, request: Request, generator: torch.Generator | None = None
    ) -> list[list[Written]]:
        """The same of what `see` made of the images."""
        found = write_sentences(
            self.decoder, seen.float(), request, generator, LONGEST, self.word_penalty
        )
        return [[self._written(one) for one in sentences] for sentences in found]

    def _written(self, sentence: Sentence) -> Written:
        text = self.vocabulary.decode(sentence.tokens)
        return Written(text, sentence.log_prob, len(sentence.tokens))

    def likelihood(self, images: Sequence[Image.Image], texts: Sequence[str]) -> LogProb:
        return self.likelihood_seen(self.see(images), texts)

    def likelihood_seen(self, seen: Tensor, texts: Sequence[str]) -> LogProb:
        """`log_prob` of what `see` made of the images.

        Warns:
            UnknownWord: a text with a word that is not in the vocabulary (named): it has the
                probability of any such word.
        """
        targets = self.vocabulary.targets(texts, 10**6).to(seen.device)
        for text, row in zip(texts, targets, strict=True):
            unknown = self.vocabulary.first_unknown(text, row.tolist())
            if unknown:
                warnings.warn(f"{self.name}: does not know {unknown!r}", UnknownWord, stacklevel=2)
        logs = token_log_probs(self.decoder, seen.float(), targets).cpu()
        sentence = logs.sum(dim=1)
        return LogProb(sentence, sentence / (targets != PAD).sum(dim=1).cpu())

    @torch.no_grad()
    def look(self, image: Image.Image, beams: int = 3) -> Looked:
        """The caption of one image, and where each of its words was seen.

        Raises:
            ValueError: a model that does not look at places.
        """
        request = Request(beams=beams)
        seen = self.see([image]).float()
        found = write_sentences(self.decoder, seen, request, None, LONGEST, self.word_penalty)
        sentence = found[0][0]
        if sentence.attention is None:
            kind = type(self.decoder).__name__
            raise ValueError(f"{self.name}: got a {kind}, expected a captioner with attention")
        kept = [place for place, token in enumerate(sentence.tokens) if token != END]
        words = [self.vocabulary.decode([sentence.tokens[place]]) for place in kept]
        return Looked(words, self.sight.grids(sentence.attention[kept]))
