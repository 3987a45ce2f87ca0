"""Stage 5: the guide learns that a picture with an object too many is wrong.

In-batch negatives never hold the same picture with an object drawn twice, and the guide of stage 4
preferred the right picture to such a one in 83 % of cases only, by .05 of cosine; so guidance that
mended a relation by drawing the object again where it belongs went unpunished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPModel, CLIPTokenizer

from clipguide.clip.losses import infonce
from clipguide.data.scene_captions import write_caption
from clipguide.data.scenes import (
    COLORS,
    GAP,
    IMAGE_SIZE,
    MARGIN,
    SHAPES,
    SIZES,
    Scene,
    pick,
    render_array,
    uniform,
)
from clipguide.training.loop import LoopSettings, train

from . import clip
from .data import draw_indices, draw_seed, with_negatives

SETTINGS = LoopSettings(steps=350, learning_rate=5e-4, warmup=35, weight_decay=0.05, seed=61)
BATCH = 96
MARGIN_OF_COSINE = 0.25
"""How much nearer its caption a picture shall be than the same with an object too many."""
SHARPNESS = 20.0
"""Of the soft hinge at that margin, on the scale of the logits."""


def doubled(scene: Scene, rng: Random) -> Scene | None:
    """``scene`` with one of its objects drawn a second time, one time in four another object.

    None for a scene of three, or where no free place is found.
    """
    if len(scene.objects) > 2:
        return None
    for _ in range(60):
        like = pick(rng, scene.objects)
        radius = uniform(rng, *SIZES[like.size])
        if rng.random() < 0.25:
            like = replace(like, color=pick(rng, tuple(COLORS)), shape=pick(rng, tuple(SHAPES)))
        low, high = MARGIN + radius, IMAGE_SIZE - MARGIN - radius
        x, y = uniform(rng, low, high), uniform(rng, low, high)
        if all(
            (x - other.x) ** 2 + (y - other.y) ** 2 > (radius + other.radius + GAP) ** 2
            for other in scene.objects
        ):
            more = replace(like, x=x, y=y, radius=radius)
            return replace(scene, objects=(*scene.objects, more))
    return None


def draw_doubles(scenes: Sequence[Scene]) -> tuple[list[int], Tensor]:
    """Which scenes have a double, and the pictures of these, (N, 3, 128, 128) uint8."""
    made = [doubled(scene, Random(f"extra {i}")) for i, scene in enumerate(scenes)]
    numbers = [i for i, scene in enumerate(made) if scene is not None]
    pictures = np.stack([render_array(scene) for scene in made if scene is not None])
    return numbers, torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def doubles_loss(model: CLIPModel, right: Tensor, wrong: Tensor, texts: Tensor) -> Tensor:
    """Of unit features: right and wrong pictures (B, D), the captions of both and further ones.

    The contrast of stage 2, each caption against all wrong pictures as well, and the margin.
    """
    scale = model.logit_scale.clamp(max=clip.MAX_LOGIT_SCALE).exp()
    count = len(right)
    own = texts[:count]
    contrast = infonce(right, own, scale, texts[count:])
    chosen = functional.cross_entropy(
        scale * own @ torch.cat([right, wrong]).T, torch.arange(count)
    )
    gap = ((right - wrong) * own).sum(dim=-1)
    return contrast + chosen + functional.softplus(SHARPNESS * (MARGIN_OF_COSINE - gap)).mean() / 5


def tell_doubles(
    model: CLIPModel, scenes: Sequence[Scene], pictures: Tensor, seen: Tensor,
    doubles: tuple[list[int], Tensor], seen_doubles: Tensor, tokenizer: CLIPTokenizer,
    folder: Path, log: Callable[[str], None], settings: LoopSettings = SETTINGS,
) -> CLIPModel:  # fmt: skip
    """Train the image tower, its projection and the temperature on; the text tower stays.

    Args:
        scenes, pictures, seen: N training scenes, their pictures (N, 3, 128, 128), and an x0
            preview of each, (N, 3, 64, 64), uint8. Half of what a step shows are previews.
        doubles, seen_doubles: what `draw_doubles` returned, and a preview of each.
    """
    torch.manual_seed(settings.seed)
    model.requires_grad_(True)
    model.text_model.requires_grad_(False)
    model.text_projection.requires_grad_(False)
    small, extra = clip.shrink(pictures, model), clip.shrink(doubles[1], model)
    numbers = torch.tensor(doubles[0])

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = draw_indices(len(numbers), BATCH, generator)
        chosen = numbers[drawn]
        rng = Random(draw_seed(generator))
        layouts = [scenes[i] for i in chosen.tolist()]
        columns = zip(*(with_negatives(scene, rng) for scene in layouts), strict=True)
        captions = [write_caption(spec, rng) for column in columns for spec in column]
        right = clip.degrade(small[chosen].float() / 255, generator)
        wrong = clip.degrade(extra[drawn].float() / 255, generator)
        right[::2] = clip.resized(seen[chosen[::2]].float() / 255, right.shape[-1])
        wrong[::2] = clip.resized(seen_doubles[drawn[::2]].float() / 255, wrong.shape[-1])
        features = clip.encode_image(model, torch.cat([right, wrong]))
        texts = clip.encode_text(model, tokenizer, captions)
        return {"loss": doubles_loss(model, *features.chunk(2), texts)}

    train({"clip": model}, step, settings, folder, log)
    return model.eval().requires_grad_(False)
