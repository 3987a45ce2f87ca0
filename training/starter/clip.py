"""Stage 2: the guiding CLIP and the held-out judge, with swapped captions as extra negatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from clipguide.clip.losses import infonce
from clipguide.data.scene_captions import spec_of, write_caption
from clipguide.data.scenes import sample_scene
from clipguide.evaluation.swaps import swap_accuracy
from clipguide.training.loop import LoopSettings, train

from . import models
from .data import (
    TRAIN_SEED,
    draw_indices,
    draw_seed,
    with_negatives,
)

BATCH = 128
MAX_LOGIT_SCALE = 4.6052  # ln 100, as in CLIP


@dataclass(frozen=True)
class ClipRecipe:
    """One of the two CLIPs: its shape, and its seed."""

    shape: dict[str, int]
    seed: int


GUIDE = ClipRecipe(
    {"image_size": 64, "patch": 16, "width": 128, "layers": 4,
     "text_width": 128, "text_layers": 3, "dimensions": 128},
    seed=21,
)  # fmt: skip
JUDGE = ClipRecipe(
    {"image_size": 80, "patch": 16, "width": 96, "layers": 5,
     "text_width": 96, "text_layers": 4, "dimensions": 96},
    seed=22,
)  # fmt: skip

MATCH_SETTINGS = LoopSettings(steps=500, learning_rate=1e-3, warmup=50, weight_decay=0.05, seed=23)
PREVIEW_SETTINGS = LoopSettings(
    steps=600, learning_rate=5e-4, warmup=50, weight_decay=0.05, seed=24
)


def encode_text(model: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """(P, D) unit vectors."""
    tokens: Any = tokenizer(captions, padding=True, return_tensors="pt")
    output: Any = model.get_text_features(**tokens)
    return functional.normalize(output.pooler_output, dim=-1)


def resized(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) in [0, 1] at ``size`` x ``size`` pixels, bicubic."""
    if images.shape[-1] == size:
        return images
    return functional.interpolate(
        images, (size, size), mode="bicubic", antialias=True, align_corners=False
    ).clamp(0, 1)


def shrink(scenes: Tensor, model: CLIPModel) -> Tensor:
    """All scenes at the size that ``model`` reads, uint8: resized once, not in every step."""
    size = model.config.vision_config.image_size
    parts = [(resized(part.float() / 255, size) * 255).round().byte() for part in scenes.split(500)]
    return torch.cat(parts)


def normalise(model: CLIPModel, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> what the vision tower reads."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (models.MEAN, models.STD))
    return (resized(images, model.config.vision_config.image_size) - mean) / std


def encode_image(model: CLIPModel, images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, D) unit vectors."""
    output: Any = model.get_image_features(pixel_values=normalise(model, images))
    return functional.normalize(output.pooler_output, dim=-1)


def degrade(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images as they are, a quarter blurred, a quarter noisy, as x0 previews are."""
    kind = torch.randint(4, (len(images), 1, 1, 1), generator=generator)
    blurred = functional.interpolate(
        functional.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear", align_corners=False
    )
    spread = 0.3 * torch.rand((len(images), 1, 1, 1), generator=generator)
    noisy = images + spread * torch.randn(images.shape, generator=generator)
    return torch.where(kind == 0, blurred, torch.where(kind == 1, noisy, images)).clamp(0, 1)


def match_towers(
    model: CLIPModel, scenes: Tensor, tokenizer: CLIPTokenizer, settings: LoopSettings,
    folder: Path, log: Callable[[str], None], previews: Tensor | None = None,
) -> CLIPModel:  # fmt: skip
    """Contrast the image tower, both projections and the temperature against the frozen text tower.

    Args:
        scenes: (N, 3, 128, 128) uint8, scene i of the training set.
        previews: (M, 3, 64, 64) uint8 of the first M scenes; half of each batch is drawn from them.
    """
    torch.manual_seed(settings.seed)
    model.text_model.requires_grad_(False)
    specs = [sample_scene(TRAIN_SEED + i) for i in range(len(scenes))]
    small = shrink(scenes, model)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(len(previews if previews is not None else scenes), BATCH, generator)
        rng = Random(draw_seed(generator))
        layouts = [specs[i] for i in chosen.tolist()]
        columns = zip(*(with_negatives(scene, rng) for scene in layouts), strict=True)
        asked = [spec for column in columns for spec in column]  # true ones first
        features = encode_text(model, tokenizer, [write_caption(spec, rng) for spec in asked])
        images = degrade(small[chosen].float() / 255, generator)
        pixels = normalise(model, images)
        if previews is not None:
            pixels[::2] = normalise(model, previews[chosen[::2]].float() / 255)
        output: Any = model.get_image_features(pixel_values=pixels)
        pictures = functional.normalize(output.pooler_output, dim=-1)
        scale = model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        contrast = infonce(pictures, features[:BATCH], scale, features[BATCH:])
        if (index + 1) % 100 == 0:
            log(f"swaps {measure_swaps(model, tokenizer)}")
        return {"loss": contrast}

    train({"clip": model}, step, settings, folder, log)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def measure_swaps(model: CLIPModel, tokenizer: CLIPTokenizer, count: int = 400) -> dict[str, float]:
    """Swap accuracy on ``count`` unseen clean two-object scenes."""
    from clipguide.data.scenes import render_array

    rng = Random(5)
    scenes = [sample_scene(900_000 + i, count=2) for i in range(count)]
    specs = [spec_of(scene, rng, relation=1.0) for scene in scenes]
    images = torch.stack([torch.from_numpy(render_array(scene)) for scene in scenes])
    pictures = images.permute(0, 3, 1, 2).float() / 255
    features = torch.cat([encode_image(model, part) for part in pictures.split(100)])
    found = swap_accuracy(features, specs, lambda captions: encode_text(model, tokenizer, captions))
    return {kind: round(value, 3) for kind, value in found.items()}
