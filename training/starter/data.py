"""Rendered scenes in memory, with descriptions, wrong descriptions and layouts of each."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipguide.data.scene_captions import (
    ATTRIBUTES,
    SceneSpec,
    replace_attribute,
    spec_of,
    swap,
)
from clipguide.data.scenes import (
    COLORS,
    FILLS,
    SHAPES,
    SIZES,
    Scene,
    pick,
    render_array,
    sample_scene,
)
from clipguide.files import atomic_path

TRAIN_SEED = 1_000_000
"""Scene i of the training set has this seed + i; measurements use seeds below it."""


def _render_seed(seed: int) -> NDArray[np.uint8]:
    return render_array(sample_scene(seed))


def rendered(count: int, folder: Path, first_seed: int = TRAIN_SEED) -> Tensor:
    """The first ``count`` training scenes, (count, 3, 128, 128) uint8, mapped from a cache file."""
    path = folder / f"scenes_{first_seed}_{count}.npy"
    if not path.exists():
        with ProcessPoolExecutor() as pool, atomic_path(path) as temporary:
            seeds = range(first_seed, first_seed + count)
            images = np.stack(list(pool.map(_render_seed, seeds, chunksize=64)))
            with temporary.open("wb") as file:
                np.save(file, images.transpose(0, 3, 1, 2))
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def draw_indices(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """``batch`` different scene numbers."""
    return torch.randperm(count, generator=generator)[:batch]


def draw_seed(generator: torch.Generator) -> int:
    """A seed for ``random.Random`` from a torch generator."""
    return int(torch.randint(2**31, (1,), generator=generator))


def with_negatives(scene: Scene, rng: Random) -> list[SceneSpec]:
    """A description of ``scene``, then two that are wrong by one swap each.

    The first inverts the relation or exchanges the objects; the second exchanges the colours, or
    one time in three replaces an attribute, which also stands in where a swap does not apply.

    Source: NegCLIP, Yuksekgonul et al. 2023 (section 4, https://arxiv.org/abs/2210.01936).
    """
    spec = spec_of(scene, rng)
    order = swap(spec, pick(rng, ("relation", "order")))
    binding = swap(spec, "binding") if rng.random() < 2 / 3 else None
    return [spec, order or replaced(spec, rng), binding or replaced(spec, rng)]


def replaced(spec: SceneSpec, rng: Random) -> SceneSpec:
    """`spec` with one attribute of one object another."""
    while True:
        changed = replace_attribute(spec, pick(rng, ATTRIBUTES), rng)
        if changed is not None:
            return changed


WORDS = (*SHAPES, *SIZES, *FILLS)
LAYOUT_SIZE = len(COLORS) * (3 + len(WORDS)) + len(SHAPES) * 3
"""Numbers of a layout: presence, x and y of each colour and each shape, and each colour's words."""
PLACES = [
    i for c in range(len(COLORS)) for i in ((3 + len(WORDS)) * c + 1, (3 + len(WORDS)) * c + 2)
]
"""Which of them are the x and y of a colour."""


def layout_of_scene(scene: Scene) -> list[float]:
    """What is where: places are from the middle of all objects, in units of 32 px."""
    x = sum(item.x for item in scene.objects) / len(scene.objects)
    y = sum(item.y for item in scene.objects) / len(scene.objects)
    return _layout(
        [
            (item.color, item.shape, (item.x - x) / 32, (item.y - y) / 32, (item.size, item.fill))
            for item in scene.objects
        ]
    )


def layout_of_spec(spec: SceneSpec) -> list[float]:
    """The same as far as a description tells it: related objects stand one unit from the middle."""
    side = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
    x, y = side[spec.relation] if spec.relation else (0, 0)
    return _layout(
        [
            (item.color, item.shape, sign * x, sign * y, (item.size, item.fill))
            for item, sign in zip(spec.objects, (1, -1, 0), strict=False)
        ]
    )


def _layout(
    places: list[tuple[str, str, float, float, tuple[str | None, str | None]]],
) -> list[float]:
    numbers: list[float] = []
    for color in COLORS:
        found = [place for place in places if place[0] == color]
        numbers += _middle([place[2:4] for place in found])
        said = {word for place in found for word in (place[1], *place[4])}
        numbers += [float(word in said) for word in WORDS]
    for shape in SHAPES:
        numbers += _middle([place[2:4] for place in places if place[1] == shape])
    return numbers


def _middle(places: list[tuple[float, float]]) -> list[float]:
    """Presence and mean place."""
    count = max(1, len(places))
    return [float(len(places) > 0), *(sum(p[axis] for p in places) / count for axis in (0, 1))]
