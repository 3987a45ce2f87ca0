"""What every CLIP offers: two towers into one space of unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from clipguide.clip.preprocess import Preprocess


class ClipModel(Protocol):
    """An image tower and a text tower whose unit vectors are compared by their dot product.

    Adapters (`transformers_clip`, `open_clip_model`) implement it; `Scorer` is the door in front of
    it: images and prompts that reach an adapter have been checked.

    Attributes:
        name: what `load_scorer` was asked for.
        module: the torch module that holds every parameter.
        preprocess: from images in [0, 1] to the pixels that `encode_image` takes.
        context_length: the most tokens of a prompt that are read, special tokens included.
        logit_scale: the model's factor on cosines, exp already taken.
        embed_dim: D.
        noise_aware: whether x0 previews were among the pictures it was trained on.
        settings_hash: of its settings and tokenizer (`clipguide.clip.settings_hash`); empty where
            they are not known, as of a model that was in memory already.
    """

    @property
    def name(self) -> str: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def context_length(self) -> int: ...
    @property
    def logit_scale(self) -> float: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def noise_aware(self) -> bool: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def settings_hash(self) -> str: ...

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B,3,h,w) -> (B,D) float32 unit vectors, differentiable."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (P,D) float32 unit vectors. A prompt beyond the context is cut with a warning
        (`clipguide.clip.tokens`)."""
        ...
