"""Random images, their generators, and cosines the plain way: what the tests of rewards share."""

from __future__ import annotations

import torch
from torch import Tensor

from clipguide.clip.scorer import Scorer


def images(count: int = 3, size: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def any_shape(latents: Tensor, sigma_bar: float) -> Tensor:
    """A reward of latents of any number of channels and any size."""
    place = torch.arange(latents[0].numel()).view(latents.shape[1:])
    return (latents * place.sin()).flatten(1).mean(1) * (2 - sigma_bar)


def smooth_cosines(scorer: Scorer, x: Tensor, prompt: str) -> Tensor:
    return scorer.encode_image(x, match="smooth") @ scorer.encode_text([prompt])[0]
