"""Penalties: rewards without a model that keep guidance from overexposed or noisy pictures."""

from __future__ import annotations

from torch import Tensor

from clipguide.rewards.base import Generators, Reward


class SaturationPenalty(Reward):
    """Minus the mean saturation max(R, G, B) - min(R, G, B) of a picture's pixels.

    In [-1, 0]; 0 for grey pictures. Cost: one pass over the pixels, no model.

    Example:
        >>> reward = ClipReward(scorer, "a red fox") + 0.1 * SaturationPenalty()

    Source: our own, by the definition of chroma in the HSV colour space, R, G, B in [0, 1].
    """

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return -(images.amax(1) - images.amin(1)).mean((1, 2))  # (B, H, W) -> (B,)


class RangePenalty(Reward):
    """Minus the mean squared distance of values (B, 3, H, W) from [0, 1].

    0 for pictures within the range, so it speaks only where previews leave it.
    Cost: one pass over the pixels, no model.

    Source: Katherine Crowson's CLIP guided diffusion (`range_loss`, 2021,
    https://github.com/crowsonkb/guided-diffusion), there on [-1, 1].
    """

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return -(images - images.clamp(0, 1)).square().mean((1, 2, 3))  # (B,)


class TotalVariationPenalty(Reward):
    """Minus the mean over places, channels of (x[i+1, j] - x[i, j])² + (x[i, j+1] - x[i, j])².

    The difference over an edge of the picture is 0. In [-2, 0] for pictures (B, 3, H, W) in [0, 1].
    Cost: one pass over the pixels, no model.

    Source: the L2 form of Mahendran and Vedaldi 2015, section 3 (beta = 2),
    https://arxiv.org/abs/1412.0035.
    """

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        down = images.diff(dim=2).square().sum((1, 2, 3))
        right = images.diff(dim=3).square().sum((1, 2, 3))
        return -(down + right) / images[0].numel()  # (B,)
