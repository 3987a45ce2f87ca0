"""What a reward is shown of the latents that a scheduler steps: their grid, or the image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from clipguide.attach.decoders import autoencoder, find_decoder
from clipguide.attach.layouts import Prepared, on_grid
from clipguide.guidance.gradient import Decode
from clipguide.rewards.base import Reward


@dataclass(frozen=True)
class LatentReading:
    """How latents as the scheduler steps them are read.

    Attributes:
        grid: unpacked, (B, C, h, w).
        decode: to images (B, 3, H, W) in [0, 1].
        decoder: the module behind it; None for a plain function.
    """

    grid: Callable[[Tensor], Tensor]
    decode: Decode
    decoder: nn.Module | None


def find_reading(
    pipe: Any, reward: Reward, prepared: Prepared, decoder: Any = None, size: int | None = None
) -> LatentReading:
    """The reading of a pipeline's latents that a reward needs.

    For a reward that reads latents alone nothing is decoded, and the pipeline needs no decoder that
    is known here.

    Args:
        pipe: the pipeline.
        reward: what is to be shown them.
        prepared: the pipeline's call, for packed latents.
        decoder, size: as in `find_decoder`.

    Raises:
        ValueError: a reward that reads the latents of another autoencoder.
        NotImplementedError: see `find_decoder`.
    """
    grid = functools.partial(on_grid, pipe, prepared)
    reward.check_autoencoder(autoencoder(pipe))
    if "images" not in reward.reads:
        return LatentReading(grid, never_decoded, None)
    return LatentReading(grid, *find_decoder(pipe, decoder, prepared, size))


def never_decoded(latents: Tensor) -> Tensor:
    """In the place of a decode function, for rewards of latents alone."""
    raise ValueError("got latents to decode for a reward that reads latents, expected none")
