"""The safety checker of Stable Diffusion, as a filter: which pictures it would black out.

The formula is diffusers' own (`StableDiffusionSafetyChecker.forward`): cosines of the picture with
17 concepts, each against its threshold, all thresholds lower by 0.01 once one of three special
concepts was met. Its weights are read from its own checkpoint by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.hub import NO_CODE, model_folder
from clipguide.clip.inference_mode import ordinary_tensors
from clipguide.clip.refusals import refusing

ADJUSTMENT = 0.01
"""What is added to every later score once a special concept was met."""
CHECKPOINT = "CompVis/stable-diffusion-safety-checker"


def unsafe(vectors: Tensor, special: Concepts, concepts: Concepts) -> Tensor:
    """(B,) whether a concept is met.

    Scores are rounded to 3 digits before they are compared with 0, as diffusers does.

    Args:
        vectors: (B, D) of the pictures, of any length.
        special, concepts: see `Concepts`.
    """
    near_special, near = special.cosines(vectors), concepts.cosines(vectors)
    found: list[bool] = []
    for of_special, of_concepts in zip(near_special.tolist(), near.tolist(), strict=True):
        adjustment = 0.0
        for cosine, threshold in zip(of_special, special.thresholds.tolist(), strict=True):
            if round(cosine - threshold + adjustment, 3) > 0:
                adjustment = ADJUSTMENT
        scores = zip(of_concepts, concepts.thresholds.tolist(), strict=True)
        found.append(any(round(c - t + adjustment, 3) > 0 for c, t in scores))
    return torch.tensor(found)


@dataclass(frozen=True)
class Concepts:
    """Vectors of concepts (C, D), and the cosine from which each is met (C,)."""

    vectors: Tensor
    thresholds: Tensor

    def cosines(self, vectors: Tensor) -> Tensor:
        """(B, C) with pictures (B, D)."""
        rows = functional.normalize(vectors.float(), dim=-1)
        return rows @ functional.normalize(self.vectors.float(), dim=-1).T


class SafetyChecker:
    """The checker with its weights.

    Args:
        tower: a transformers CLIP vision model.
        projection: of its pooled output.
        special, concepts: see `unsafe`.
        image_processor: from PIL images to pixels.
    """

    def __init__(
        self, tower: nn.Module, projection: nn.Module, special: Concepts, concepts: Concepts,
        image_processor: Any,
    ) -> None:  # fmt: skip
        self._tower: Any = tower.eval().requires_grad_(False)
        self._projection = projection.requires_grad_(False)
        self._special, self._concepts = special, concepts
        self._image_processor = image_processor

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """(B,) whether the checker would black a picture out. Cost: one pass of its tower each."""
        pixels: Tensor = self._image_processor(images=[*images], return_tensors="pt")[
            "pixel_values"
        ]
        vectors: Tensor = self._projection(self._tower(pixels).pooler_output)
        return unsafe(vectors, self._special, self._concepts)


def checkpoint_file(name: str = CHECKPOINT) -> Path:
    """The file of the checker's weights, fetched where it is not there. Raises ValueError."""
    return model_folder(name, name) / "model.safetensors"


@ordinary_tensors()
def load_safety_checker(name: str = CHECKPOINT) -> SafetyChecker:
    """The checker from a folder or a Hub repository in diffusers' own form; safetensors only.

    Raises:
        ValueError: it cannot be loaded, or has other weights.
    """
    from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModel

    with refusing(name):
        file = checkpoint_file(name)
        folder = file.parent
        config: Any = AutoConfig.from_pretrained(folder, **NO_CODE)
        weights = load_file(file)
        width = int(config.vision_config.hidden_size)
        tower = CLIPVisionModel(config.vision_config)
        projection = nn.Linear(width, int(config.projection_dim), bias=False)
        own = {
            key.removeprefix("vision_model."): value
            for key, value in weights.items() if key.startswith("vision_model.")
        }  # fmt: skip
        tower.load_state_dict(own, strict=False)
        missing = sorted({key for key, _ in tower.named_parameters()} - set(own))
        if missing:
            raise ValueError(f"{name}: got weights without {missing[0]}, expected all of them")
        projection.load_state_dict({"weight": weights["visual_projection.weight"]})
        image_processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
        special = Concepts(weights["special_care_embeds"], weights["special_care_embeds_weights"])
        concepts = Concepts(weights["concept_embeds"], weights["concept_embeds_weights"])
    return SafetyChecker(tower, projection, special, concepts, image_processor)
