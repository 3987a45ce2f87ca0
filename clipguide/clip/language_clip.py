"""A CLIP that reads another language: a text tower of its own beside its teacher's image tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.backbones import TextBackbone, check_choice, config_of
from clipguide.clip.heads import HEADS
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import hash_values
from clipguide.clip.tokenizers import (
    PromptTokens,
    check_context,
    check_padding_side,
    check_tokenizer,
)
from clipguide.clip.tokens import truncate


@dataclass(frozen=True)
class LanguageSettings:
    """How the text tower leads into the teacher's space.

    Attributes:
        pooling: one of `clipguide.clip.backbones.TEXT_POOLINGS`.
        head: one of `clipguide.clip.heads.HEADS`.
        dropout: of the head while it trains.
        context_length: tokens of a text that are read, special tokens included.
    """

    pooling: str = "mean"
    head: str = "linear"
    dropout: float = 0.0
    context_length: int = 64

    def __post_init__(self) -> None:
        check_choice("head", self.head, HEADS)
        if self.context_length < 3 or not 0 <= self.dropout < 1:
            got = f"context_length {self.context_length} and dropout {self.dropout}"
            raise ValueError(f"got {got}, expected at least 3 and a value in [0, 1)")


class LanguageTower(nn.Module):
    """A transformers text encoder and a head, into the space of D dimensions of a CLIP.

    Args:
        text: the encoder.
        tokenizer: its own, of transformers.
        embed_dim: D.
        settings: see `LanguageSettings`.
        name: for messages.

    Raises:
        ValueError: a tokenizer or context that the encoder cannot take.
    """

    def __init__(
        self, text: nn.Module, tokenizer: Any, embed_dim: int, settings: LanguageSettings,
        name: str = "text tower",
    ) -> None:  # fmt: skip
        super().__init__()
        check_tokenizer(name, tokenizer, text)
        check_padding_side(name, tokenizer)
        check_context(name, settings.context_length, text)
        self.settings, self.tokenizer = settings, tokenizer
        self._prompt_tokens = PromptTokens(name, tokenizer)
        self.text = TextBackbone(text, settings.pooling)
        token = torch.zeros((1, 1), dtype=torch.long)
        was = self.text.training
        with torch.no_grad():
            width = self.text.eval()(token, torch.ones_like(token)).shape[1]
        self.text.train(was)
        self.head = HEADS[settings.head](width, embed_dim, settings.dropout)

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts -> `input_ids` and `attention_mask`, (P, T) each, padded to the longest; one
        beyond the context is cut with a warning (`PromptTruncated`)."""
        most = self.settings.context_length
        rows = [truncate(self._prompt_tokens(prompt), most, prompt) for prompt in prompts]
        batch: Mapping[str, Tensor] = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        device = next(self.parameters()).device
        return {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(P, T) tokens and their mask -> (P, D) float32 unit vectors."""
        rows = self.head(self.text(input_ids, attention_mask))
        return functional.normalize(rows.float(), dim=-1)

    def shape(self) -> dict[str, Any]:
        """The encoder's configuration, as JSON."""
        return config_of(self.text.model)


class LanguageClip(nn.Module):
    """Two towers into one space of unit vectors (see `ClipModel`): its own reads texts, its
    teacher's images.

    Args:
        name: what the user called it.
        tower: reads texts.
        teacher: a scorer of images, whose image tower is used.
        tokenizer_hash: of the tokenizer's files, for `settings_hash`; empty where there are none.
    """

    def __init__(
        self, name: str, tower: LanguageTower, teacher: Scorer, tokenizer_hash: str = ""
    ) -> None:
        super().__init__()
        self.name, self.tower, self._hash = name, tower, tokenizer_hash
        self._teacher = teacher.model
        self.teacher = teacher.model.module  # a child, so that it moves where the tower moves

    @property
    def module(self) -> nn.Module:
        """Itself, as `ClipModel` asks."""
        return self

    @property
    def preprocess(self) -> Preprocess:
        return self._teacher.preprocess

    @property
    def context_length(self) -> int:
        return self.tower.settings.context_length

    @property
    def logit_scale(self) -> float:
        """The teacher's."""
        return self._teacher.logit_scale

    @property
    def embed_dim(self) -> int:
        return self._teacher.embed_dim

    @property
    def noise_aware(self) -> bool:
        """Whether the teacher is."""
        return self._teacher.noise_aware

    @property
    def device(self) -> torch.device:
        return next(self.tower.parameters()).device

    @property
    def settings_hash(self) -> str:
        """Of its own tower and tokenizer and of the teacher; empty where one is not known."""
        known = self._teacher.settings_hash
        if not (known and self._hash):
            return ""
        own = {"shape": self.tower.shape(), "settings": vars(self.tower.settings)}
        return hash_values(**own, tokenizer=self._hash, teacher=known)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (P, D) float32 unit vectors."""
        return self.tower(**self.tower.tokenize(prompts))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, h, w) -> (B, D) float32 unit vectors, by the teacher."""
        return self._teacher.encode_image(pixels)
