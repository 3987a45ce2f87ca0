"""A part of a picture, and any reward of that part alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipguide.rewards.base import Generators, Reward, as_reward

Box: TypeAlias = tuple[float, float, float, float]
RegionLike: TypeAlias = "Region | Sequence[float] | Tensor"
"""A `Region`, or what makes one: (x0, y0, x1, y1), or a mask (h, w)."""

GREY = 0.5
"""What images show outside a mask."""
NOISE_SEED = 0
"""Of the noise that latents show outside a region, the same for every sample and call."""


class Region:
    """A rectangle of a picture, or the places of a mask.

    Args:
        where: (x0, y0, x1, y1), left, top, right, bottom, in fractions of width and height in
            [0, 1]; or a mask (h, w), bool or floats in [0, 1], of any size: each place of a picture
            takes the largest entry that it touches.

    Raises:
        ValueError: a box outside [0, 1] or without area, a mask of another shape or range, or one
            that is 0 everywhere.

    Example:
        >>> Region((0, 0, 0.5, 1)).of_images(torch.rand(2, 3, 24, 32)).shape
        torch.Size([2, 3, 24, 16])
    """

    def __init__(self, where: Sequence[float] | Tensor) -> None:
        self.box: Box | None = None
        self.mask: Tensor | None = None
        if isinstance(where, Tensor):
            self.mask = _checked_mask(where)
        else:
            self.box = _checked_box(where)

    def of_images(self, images: Tensor) -> Tensor:
        """What is seen of images (B, 3, H, W): the box cut out, at its borders' nearest pixels and
        at least one wide and high; of a mask the rows and columns in which it has anything, with
        0.5, grey, in the place of what it leaves out."""
        if self.mask is None:
            rows, columns = self._spans(images)
            return images[..., rows, columns]
        weight = self._weight(images)  # (H, W)
        rows, columns = (_extent(weight.amax(axis)) for axis in (1, 0))
        return (GREY + weight * (images - GREY))[..., rows, columns]

    def of_latents(self, latents: Tensor, sigma_bar: float) -> Tensor:
        """What is seen of noisy latents (B, C, h, w) in the normal form: themselves inside, and
        outside the noisy version of a picture whose latents are 0, of noise that is always the
        same. Nothing is cut out, for that would move what is left to other places of the tower."""
        weight = self._weight(latents)  # (h, w)
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(latents.shape[1:], generator=generator).to(latents)  # (C, h, w)
        return sigma_bar * noise + weight * (latents - sigma_bar * noise)

    def _weight(self, grid: Tensor) -> Tensor:
        """How far each place of (B, C, H, W) belongs to it, (H, W) in [0, 1]."""
        height, width = grid.shape[-2:]
        if self.mask is None:
            weight = grid.new_zeros(height, width)
            weight[self._spans(grid)] = 1
            return weight
        return F.adaptive_max_pool2d(self.mask[None], (height, width))[0].to(grid)

    def _spans(self, grid: Tensor) -> tuple[slice, slice]:
        """Rows and columns of the box."""
        x0, y0, x1, y1 = cast("Box", self.box)
        height, width = grid.shape[-2:]
        return _span(y0, y1, height), _span(x0, x1, width)


def as_region(region: RegionLike) -> Region:
    """A region as it is, or made of a box or a mask."""
    return region if isinstance(region, Region) else Region(region)


def region_of(region: RegionLike | None) -> Region | None:
    """The same; None, the whole picture, stays None."""
    return None if region is None else as_region(region)


class RegionReward(Reward):
    """What `reward` gives a part of each picture (`Region`), and nothing for the rest of it.

    The gradient is 0 outside the region. Of a sum, each term sees the region.

    Args:
        reward: of images, of noisy latents, a sum of both, or a function of images.
        region: (x0, y0, x1, y1) in fractions of width and height, or a mask (h, w).

    Cost: that of `reward`.

    Raises:
        ValueError: see `Region`.
        TypeError: no reward.

    Example:
        >>> left = RegionReward(ClipReward(scorer, "a red cube"), (0, 0, 0.5, 1))
        >>> left(images).shape
        torch.Size([2])

    Source: masks of blended diffusion, Avrahami et al. 2022 (section 3.1,
    https://arxiv.org/abs/2111.14818), where CLIP too sees the masked picture alone.
    """

    def __init__(self, reward: Reward | Callable[[Tensor], Tensor], region: RegionLike) -> None:
        self.reward, self.region = as_reward(reward), as_region(region)

    @property
    def reads(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What its reward reads."""
        return self.reward.reads

    @property
    def noise_aware(self) -> bool:
        """Whether its reward is."""
        return self.reward.noise_aware

    @property
    def guidance(self) -> dict[str, Any]:
        """Its reward's."""
        return self.reward.guidance

    def check_autoencoder(self, autoencoder: nn.Module | None) -> None:
        """As its reward does."""
        self.reward.check_autoencoder(autoencoder)

    @property
    def entries(self) -> int:
        """Its reward's."""
        return self.reward.entries

    def for_entries(self, rows: Sequence[int]) -> Reward:
        """Its reward's within the region."""
        return RegionReward(self.reward.for_entries(rows), self.region)

    def split(self) -> tuple[tuple[float, Reward], ...]:
        """Of a sum, every term within the region."""
        return tuple((w, RegionReward(term, self.region)) for w, term in self.reward.split())

    def __call__(self, images: Tensor, *, generators: Generators | None = None) -> Tensor:
        return self.reward(self.region.of_images(images), generators=generators)

    def of_latents(
        self, latents: Tensor, sigma_bar: float, *, generators: Generators | None = None
    ) -> Tensor:
        """What its reward gives the region of the latents."""
        seen = self.region.of_latents(latents, sigma_bar)
        return self.reward.of_latents(seen, sigma_bar, generators=generators)


def _checked_box(where: Sequence[float]) -> Box:
    try:
        x0, y0, x1, y1 = (float(edge) for edge in where)
    except (TypeError, ValueError):
        raise ValueError(
            f"got region {where!r}, expected (x0, y0, x1, y1) or a mask, a tensor (h, w)"
        ) from None
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"got region {(x0, y0, x1, y1)}, expected (x0, y0, x1, y1) with 0 <= x0 < x1 <= 1 and "
            "0 <= y0 < y1 <= 1"
        )
    return x0, y0, x1, y1


def _checked_mask(mask: Tensor) -> Tensor:
    if mask.ndim != 2 or mask.numel() == 0:
        raise ValueError(f"got a mask of shape {tuple(mask.shape)}, expected (h, w)")
    values = mask.detach().float().cpu()
    if not bool(((values >= 0) & (values <= 1)).all()):  # false of NaN too
        raise ValueError(f"got a mask from {mask.min()} to {mask.max()}, expected [0, 1]")
    if not bool(values.any()):
        raise ValueError("got a mask that is 0 everywhere, expected a place above it")
    return values


def _span(low: float, high: float, size: int) -> slice:
    """Whole places nearest to fractions, at least one."""
    first = min(math.floor(low * size + 0.5), size - 1)
    return slice(first, max(math.floor(high * size + 0.5), first + 1))


def _extent(present: Tensor) -> slice:
    """From the first to the last place that is not 0."""
    places: list[int] = present.nonzero().flatten().tolist()
    return slice(places[0], places[-1] + 1)
