"""Random images, their generators, and cosines the plain way: what the tests of rewards share."""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.clip.scorer import Scorer


def images(count: int = 3, size: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def smooth_cosines(scorer: Scorer, x: Tensor, prompt: str) -> Tensor:
    return scorer.encode_image(x, match="smooth") @ scorer.encode_text([prompt])[0]
