"""Small eyes for the starter's scenes: a ResNet that says of each sixteenth of them what is there.

python -m training.captioners.eyes FOLDER

writes FOLDER/eyes, an image encoder of transformers with 4 x 4 places, which the recipes of the
starter's captioner and questions look through (`captioner.image`). It has seen no caption and no
CLIP: what is read by it judges guidance by a CLIP with other eyes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPImageProcessor, ResNetConfig, ResNetModel

from clipguide.data.scenes import (
    COLORS,
    FILLS,
    IMAGE_SIZE,
    SHAPES,
    SIZES,
    SceneObject,
    sample_scene,
)
from clipguide.training.loop import LoopSettings, train
from training.captioners.scenes import COUNT, FIRST_SEED, HELD
from training.starter.clip import degrade
from training.starter.data import draw_indices, rendered

WIDTHS = [16, 32, 48, 80]
PLACES = 4
"""On each side."""
BATCH = 64
SETTINGS = LoopSettings(
    steps=2000, learning_rate=3e-3, warmup=100, weight_decay=0.01, seed=51, log_every=100
)
MEAN, SPREAD = 0.5, 0.25
_NAMES = [[*COLORS], [*SHAPES], [*SIZES], [*FILLS]]
_ENDS = torch.tensor([len(names) for names in _NAMES]).cumsum(0).tolist()


def eyes() -> ResNetModel:
    """The encoder, of random weights: 128 pixels, 4 x 4 places."""
    config = ResNetConfig(
        embedding_size=WIDTHS[0], hidden_sizes=WIDTHS, depths=[1] * len(WIDTHS), layer_type="basic"
    )
    return ResNetModel(config)


def places_of(objects: tuple[SceneObject, ...]) -> Tensor:
    """(16, 7) of a scene, row by row: whether an object's centre is there, its colour, shape, size
    and fill by number, and where its centre is in the place, from -.5 to .5."""
    side = IMAGE_SIZE / PLACES
    found = torch.zeros(PLACES * PLACES, 7)
    for item in objects:
        column, row = (min(PLACES - 1, int(at / side)) for at in (item.x, item.y))
        said = (item.color, item.shape, item.size, item.fill)
        numbers = [names.index(name) for names, name in zip(_NAMES, said, strict=True)]
        at = item.x / side - column - 0.5, item.y / side - row - 0.5
        found[row * PLACES + column] = torch.tensor([1.0, *numbers, *at])
    return found


def place_losses(told: Tensor, places: Tensor) -> dict[str, Tensor]:
    """Of what a linear layer makes of each place, (B, 16, F), against `places_of`, (B, 16, 7)."""
    there = places[..., 0] > 0
    presence = functional.binary_cross_entropy_with_logits(told[..., 0], places[..., 0])
    mine, own = told[there], places[there]
    names = torch.stack(
        [functional.cross_entropy(part, own[:, column].long())
         for column, part in enumerate(mine[:, 1 : 1 + _ENDS[-1]].tensor_split(_ENDS[:-1], 1), 1)]
    )  # fmt: skip
    where = (mine[:, -2:] - own[:, 5:]).square().mean()
    return {
        "loss": 4 * presence + names.sum() + 4 * where, "presence": presence,
        "colour": names[0], "shape": names[1], "where": where,
    }  # fmt: skip


def main(folder: Path, settings: LoopSettings = SETTINGS) -> None:
    """All of it."""
    first, count = FIRST_SEED + 2 * HELD, COUNT - 2 * HELD  # the scenes of the training alone
    scenes = rendered(count, folder, first)
    places = torch.stack([places_of(sample_scene(first + place).objects) for place in range(count)])
    torch.manual_seed(settings.seed)
    model = eyes()
    head = nn.Linear(WIDTHS[-1], 1 + _ENDS[-1] + 2)

    def step(index: int, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = draw_indices(count, BATCH, generator)
        pixels = (degrade(scenes[chosen].float() / 255, generator) - MEAN) / SPREAD
        grid = model(pixel_values=pixels).last_hidden_state  # (B, C, 4, 4)
        return place_losses(head(grid.flatten(2).mT), places[chosen])

    run = folder / "eyes_run"
    run.mkdir(parents=True, exist_ok=True)
    train({"eyes": model, "head": head}, step, settings, run, print)
    model.save_pretrained(folder / "eyes")
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(
        do_resize=True, size=side, do_center_crop=False, resample=3,
        image_mean=[MEAN] * 3, image_std=[SPREAD] * 3,
    ).save_pretrained(folder / "eyes")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
