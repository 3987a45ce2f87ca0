"""What the adapters of open_clip's and transformers' models share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipguide.clip.named_module import NamedModule
from clipguide.clip.preprocess import Preprocess


class LibraryClip(NamedModule, ABC):
    """A model of another library as a `ClipModel`.

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        preprocess: from images in [0, 1] to its pixels.
    """

    context_length: int
    logit_scale: float
    embed_dim: int

    def __init__(self, name: str, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__(name, module)
        self.preprocess = preprocess

    def measured(self) -> int:
        """D, by encoding one text: called once, at the end of a constructor."""
        with torch.no_grad():
            return int(self.encode_text(["a"]).shape[1])

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, h, w) -> (B, D) float32 unit vectors."""

    @abstractmethod
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (P, D) float32 unit vectors."""


def unit(vectors: Tensor) -> Tensor:
    """(N, D) vectors as float32 of length one."""
    vectors = vectors.float()
    return vectors / vectors.norm(dim=-1, keepdim=True)
