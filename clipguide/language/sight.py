"""What a captioner sees of a picture: vectors of its places, or one of the whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.backbones import config_of, image_states
from clipguide.clip.patch_tokens import patch_tokens
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import hash_values
from clipguide.clip.weights import hash_weights

VIEWS = ("patches", "embedding")
"""What of a CLIP is seen: the last layer's vector of each place, or its unit vector of the whole
picture."""


class Sight(ABC):
    """From normalised pixels to vectors; frozen.

    Attributes:
        preprocess: from a picture to the pixels.
        module: what sees, its weights loaded.
        width: C, the length of a vector.
        mirrored: whether the places of the picture's mirror image are seen behind its own.
    """

    preprocess: Preprocess
    module: nn.Module
    width: int
    mirrored = False

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) normalised, of any device -> (B, N, C), places row by row.

        Cost: one pass of `module` a picture, two where it is `mirrored`.
        """
        seen = self._places(pixels)
        return torch.cat([seen, self._places(pixels.flip(-1))], dim=1) if self.mirrored else seen

    @abstractmethod
    def _places(self, pixels: Tensor) -> Tensor:
        """What is seen of the pictures as they are."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """What sees, as JSON."""

    def settings(self) -> dict[str, Any]:
        """What it is made again from, as JSON."""
        return {**self._settings(), **({"mirrored": True} if self.mirrored else {})}

    def grids(self, looks: Tensor) -> Tensor:
        """How far each place of a square grid was looked at, (T, N) -> (T, side, side); a place of
        the mirror image counts for that of the picture.

        Raises:
            ValueError: places that are no square.
        """
        halves = looks.chunk(2, dim=1) if self.mirrored else (looks,)
        side = int(halves[0].shape[1] ** 0.5)
        if side * side != halves[0].shape[1]:
            raise ValueError(f"got {halves[0].shape[1]} places, expected a square of them")
        first, *mirror = (half.unflatten(1, (side, side)) for half in halves)
        return first + mirror[0].flip(-1) if mirror else first

    def mark(self) -> Mapping[str, object]:
        """All that decides the vectors, by name: of a cache of them."""
        return {
            "kind": "sight",
            "weights": hash_weights(self.module),
            "settings": hash_values(**self.settings()),
            "preprocess": self.preprocess,
        }


class BackboneSight(Sight):
    """The last states of a transformers image encoder; of a CNN its grid, of a ViT its tokens.

    Args:
        model: takes `pixel_values`, returns a last hidden state; frozen from then on.
        preprocess: its own.
        levels: how many of its last states are seen, end to end, an earlier grid averaged to the
            size of the last one.

    Raises:
        ValueError: fewer than one level, more than the model has, or tokens of which an earlier
            state has another number.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, levels: int = 1) -> None:
        # a CNN's own order of memory: half the time on a CPU
        self.module = model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.preprocess, self.levels = preprocess, levels
        if levels < 1:
            raise ValueError(f"got {levels} levels, expected at least 1")
        height, width = preprocess.crop or preprocess.size
        with torch.no_grad():
            self.width = int(self.encode(torch.zeros(1, 3, height, width)).shape[-1])

    def _places(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(next(self.module.parameters()).device)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if self.levels == 1:  # which every encoder has
            output: Any = self.module(pixel_values=pixels)
            return _rows([output.last_hidden_state])
        return _rows(_last(image_states(self.module, pixels), self.levels))

    def _settings(self) -> dict[str, Any]:
        levels = {"levels": self.levels} if self.levels > 1 else {}
        return {"backbone": config_of(self.module), **levels}


class ClipSight(Sight):
    """What a CLIP says of each place, or of the whole picture.

    Args:
        scorer: the CLIP.
        view: one of `VIEWS`.

    Raises:
        ValueError: another view.
    """

    def __init__(self, scorer: Scorer, view: str) -> None:
        if view not in VIEWS:
            raise ValueError(f"got sight {view!r}, expected one of {[*VIEWS]}")
        self.scorer, self.view = scorer, view
        self.module, self.preprocess = scorer.model.module, scorer.preprocess
        height, width = self.preprocess.crop or self.preprocess.size
        with torch.no_grad():
            self.width = int(self.encode(torch.zeros(1, 3, height, width)).shape[-1])

    def _places(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.scorer.device)
        if self.view == "embedding":
            return self.scorer.model.encode_image(pixels).unsqueeze(1)
        return patch_tokens(self.scorer.model, pixels)[-1]

    def _settings(self) -> dict[str, Any]:
        return {"clip": self.scorer.name, "clip_hash": self.scorer.content_hash, "view": self.view}


def _last(states: Sequence[Tensor], levels: int) -> Sequence[Tensor]:
    if levels > len(states):
        raise ValueError(f"got {levels} levels, expected at most the {len(states)} of the encoder")
    return states[-levels:]


def _rows(states: Sequence[Tensor]) -> Tensor:
    """States, the last one at the end, (B, D, h, w) of a CNN or (B, N, D) -> (B, N, sum of D)."""
    last = states[-1]
    if last.ndim == 4:
        size = (last.shape[2], last.shape[3])
        states = [functional.adaptive_avg_pool2d(one, size).flatten(2).mT for one in states]
    shapes = [tuple(one.shape[1:]) for one in states]
    if len({shape[:-1] for shape in shapes}) > 1:
        raise ValueError(f"got states {shapes}, expected as many tokens in each: levels = 1")
    return torch.cat([*states], dim=-1)
