"""Decoders of captioners with large random weights, and what they are shown and taught."""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.language.captioner_files import RECURRENT
from clipguide.language.clip_prefix import ClipPrefix, PrefixShape, small_language_model
from clipguide.language.decoder import Decoder
from clipguide.language.vocabulary import END, PAD

VOCABULARY, WIDTH, PLACES = 7, 6, 4


def decoder_of(kind: str, mapping: str = "mlp") -> Decoder:
    torch.manual_seed(1)
    if kind == "clip_prefix":
        language = small_language_model(VOCABULARY, 16, 1, 0.0)
        made: Decoder = ClipPrefix(WIDTH, language, PrefixShape(2, mapping, 1))
    else:
        made = RECURRENT[kind](WIDTH, VOCABULARY, 8, 0.0)
    for value in made.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.7)
    return made.eval()


def pictures() -> Tensor:
    """(3, PLACES, WIDTH) as they are seen."""
    return torch.randn(3, PLACES, WIDTH, generator=torch.Generator().manual_seed(2))


TARGETS = torch.tensor([[[4, 5, END], [6, END, PAD]]] * 3)  # (B, K, T)
