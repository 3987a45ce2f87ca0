"""Stage 2a: each tower alone learns to name what is where, before the two are matched by contrast.

Contrast alone (even with swapped captions as negatives) sat for a thousand steps at telling every
relation from its inverse by a coin: neither tower gains by learning place before the other has.
A linear reading of the layout from each tower's feature breaks that deadlock, and small batches of
one tower are cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from clipguide.data.scene_captions import spec_of, write_caption
from clipguide.data.scenes import sample_scene
from clipguide.training.loop import LoopSettings, train

from .clip import degrade, normalise, shrink
from .data import (
    LAYOUT_SIZE,
    PLACES,
    TRAIN_SEED,
    draw_indices,
    draw_seed,
    layout_of_scene,
    layout_of_spec,
)

TEXT_SETTINGS = LoopSettings(
    steps=1500, learning_rate=2e-3, warmup=100, weight_decay=0.01, seed=41, log_every=100
)
IMAGE_SETTINGS = LoopSettings(
    steps=1500, learning_rate=1.5e-3, warmup=100, weight_decay=0.01, seed=42, log_every=100
)
BATCH = 96


def layout_losses(head: nn.Module, feature: Tensor, layouts: Tensor) -> dict[str, Tensor]:
    """Squared error, summed, of the layout that ``head`` reads from ``feature`` (B, width)."""
    error = (head(feature) - layouts) ** 2
    return {"loss": error.sum(dim=-1).mean(), "place": error[:, PLACES].sum(dim=-1).mean()}


def train_text_tower(
    model: CLIPModel, tokenizer: CLIPTokenizer, folder: Path, log: Callable[[str], None],
    settings: LoopSettings = TEXT_SETTINGS,
) -> None:  # fmt: skip
    """Train ``model.text_model`` in place on captions of scenes no image is drawn for."""
    torch.manual_seed(settings.seed)
    head = nn.Linear(model.config.text_config.hidden_size, LAYOUT_SIZE)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        rng = Random(draw_seed(generator))
        specs = [spec_of(sample_scene(draw_seed(generator)), rng) for _ in range(BATCH)]
        tokens: Any = tokenizer(
            [write_caption(spec, rng) for spec in specs], padding=True, return_tensors="pt"
        )
        feature = model.text_model(**tokens).pooler_output
        layouts = torch.tensor([layout_of_spec(spec) for spec in specs])
        return layout_losses(head, feature, layouts)

    train({"text": model.text_model, "head": head}, step, settings, folder, log)


def train_image_tower(
    model: CLIPModel, scenes: Tensor, folder: Path, log: Callable[[str], None],
    settings: LoopSettings = IMAGE_SETTINGS,
) -> None:  # fmt: skip
    """Train ``model.vision_model`` in place on rendered scenes, half of them blurred or noisy."""
    torch.manual_seed(settings.seed)
    head = nn.Linear(model.config.vision_config.hidden_size, LAYOUT_SIZE)
    drawn = [sample_scene(TRAIN_SEED + i) for i in range(len(scenes))]
    layouts = torch.tensor([layout_of_scene(scene) for scene in drawn])
    small = shrink(scenes, model)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(len(scenes), BATCH, generator)
        pixels = normalise(model, degrade(small[chosen].float() / 255, generator))
        feature = model.vision_model(pixel_values=pixels).pooler_output
        return layout_losses(head, feature, layouts[chosen])

    train({"vision": model.vision_model, "head": head}, step, settings, folder, log)
