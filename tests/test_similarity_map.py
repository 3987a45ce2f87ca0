"""Where a phrase is, against a slow version and against where the object was drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.clip.similarity_map import shade, similarity_map


class Redness:
    """Stands for a scorer: the share of red pixels, which anybody can count."""

    name = "redness"

    def score(self, images: Any, prompts: Any) -> Tensor:
        arrays = [np.asarray(image).astype(int) for image in images]
        return torch.tensor([float((a[..., 0] > a[..., 1] + 50).mean()) for a in arrays])


def scene(width: int = 60, height: int = 40) -> Image.Image:
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).rectangle((44, 24, 53, 33), fill="red")
    return image


def test_covers_against_loops() -> None:
    """Every pixel's mean over the covers that hide it, written out."""
    image, scorer = scene(), Redness()
    side, short = 16, 40
    found = similarity_map(scorer, image, "red", window=0.4, step=0.1)  # type: ignore[arg-type]
    starts = [
        [round(k * (length - side) / max(1, round((length - side) / (0.1 * short))))
         for k in range(round((length - side) / (0.1 * short)) + 1)]
        for length in (60, 40)
    ]  # fmt: skip
    whole = float(scorer.score([image], "red")[0])
    total, weights = np.zeros((40, 60)), np.zeros((40, 60))
    for y in starts[1]:
        for x in starts[0]:
            covered = image.copy()
            covered.paste((255, 255, 255), (x, y, x + side, y + side))
            fall = whole - float(scorer.score([covered], "red")[0])
            for v in range(side):
                for u in range(side):
                    near = [1 - abs(w + 0.5 - side / 2) / (side / 2 + 0.5) for w in (u, v)]
                    total[y + v, x + u] += fall * near[0] * near[1]
                    weights[y + v, x + u] += near[0] * near[1]
    np.testing.assert_allclose(found.numpy(), total / weights, atol=1e-6)


def test_it_is_highest_where_the_object_is() -> None:
    values = similarity_map(Redness(), scene(), "red")  # type: ignore[arg-type]
    y, x = divmod(int(values.argmax()), 60)
    assert 40 <= x <= 57
    assert 20 <= y <= 37
    assert float(values[5, 5]) == 0


@pytest.mark.parametrize("size", [(8, 8), (1, 30), (33, 7)])
def test_any_size_and_any_clip(tiny_scorer: Scorer, size: tuple[int, int]) -> None:
    image = Image.effect_noise(size, 90).convert("RGB")
    values = similarity_map(tiny_scorer, image, "a fox")
    assert values.shape == size[::-1]
    assert bool(values.isfinite().all())
    assert shade(image, values).size == size


@pytest.mark.parametrize(("window", "step"), [(0.0, 0.1), (1.5, 0.1), (0.4, 0.0), (0.2, 0.3)])
def test_windows_out_of_range(tiny_scorer: Scorer, window: float, step: float) -> None:
    with pytest.raises(ValueError, match="expected a number in"):
        similarity_map(tiny_scorer, scene(), "a fox", window=window, step=step)
