"""Several random looks at one image: crops, flips, shifts and noise, from per-sample generators.

A reward averaged over views has a gradient that follows what is in the picture rather than what
fools the scorer once (Liu et al. 2021, FuseDream, AugCLIP, https://arxiv.org/abs/2112.01573).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """How many views of each image, and what varies between them.

    Attributes:
        count: views per image, 1 or more. The cost: `count` CLIP images per call, in one batch.
        crop: range (low, high) of the fraction of the area that is seen, in (0, 1]; the window
            keeps the image's aspect and is resized to its size. (1, 1): the whole image.
        flip: mirror left and right in half of the views; leave False where left and right matter.
        noise: standard deviation of Gaussian noise, in units of the [0, 1] range.
        shift: most pixels, or latents, by which a view is moved along each axis, in whole ones;
            what leaves at one side comes in at the other, so that noise stays noise.

    Of noisy latents only flips and shifts are views: a crop resamples their noise, and added noise
    is another noise level.

    The defaults are one exact copy and use no random number.
    """

    count: int = 1
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    noise: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "crop", tuple(self.crop))
        if self.count < 1:
            raise ValueError(f"got {self.count} views, expected 1 or more")
        if not (len(self.crop) == 2 and 0 < self.crop[0] <= self.crop[1] <= 1):
            raise ValueError(f"got crop {self.crop}, expected (low, high), 0 < low <= high <= 1")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"got noise {self.noise}, expected a finite number >= 0")
        if self.shift < 0:
            raise ValueError(f"got shift {self.shift}, expected 0 or more")

    @property
    def random(self) -> bool:
        """Whether views need generators."""
        return self.crop != (1.0, 1.0) or self.flip or self.noise > 0 or self.shift > 0

    def check_latents(self) -> None:
        """Raises for views that noisy latents do not have.

        Raises:
            ValueError: crops or noise.
        """
        if self.crop != (1.0, 1.0) or self.noise > 0:
            raise ValueError(
                f"got crop={self.crop}, noise={self.noise} with a scorer of latents, expected "
                "views by flip and shift alone: the others change the noise of what it reads"
            )

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
        """(B, 3, H, W) -> (B·count, 3, H, W), the views of an image consecutive.

        Image i's views depend on generator i alone, which they advance. With noise, values may
        leave [0, 1] (clamping them would cut the gradient of every saturated pixel).

        Raises:
            ValueError: random views without one generator per image.
        """
        repeated = images.repeat_interleave(self.count, dim=0)  # (B·V, 3, H, W)
        if not self.random:
            return repeated
        if generators is None or len(generators) != images.shape[0]:
            given = 0 if generators is None else len(generators)
            raise ValueError(
                f"got {given} generators for random views of {images.shape[0]} images, "
                "expected one per image"
            )
        viewed = self._shifted(self._geometry(repeated, generators), generators)
        return viewed + self.noise * self._noise(images, generators) if self.noise else viewed

    def _shifted(self, viewed: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Each view rolled by its own whole numbers of places; (B·V, ...)."""
        if self.shift == 0:
            return viewed
        span = (-self.shift, self.shift + 1, (self.count, 2))
        draws = [torch.randint(*span, generator=g, device=g.device) for g in generators]
        places = torch.cat(draws).tolist()  # (B·V, 2)
        return torch.stack(
            [view.roll(place, (-2, -1)) for view, place in zip(viewed, places, strict=True)]
        )

    def _geometry(self, repeated: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        if self.crop == (1.0, 1.0) and not self.flip:
            return repeated
        draws = torch.cat([self._draw(g) for g in generators]).to(repeated)  # (B·V, 4) in [0, 1)
        low, high = self.crop
        side = (low + (high - low) * draws[:, 0]).sqrt()  # (B·V,)
        mirror = 1 - 2 * (draws[:, 3] < 0.5).to(side) if self.flip else torch.ones_like(side)
        theta = repeated.new_zeros(repeated.shape[0], 2, 3)
        theta[:, 0, 0] = side * mirror
        theta[:, 1, 1] = side
        theta[:, :, 2] = (1 - side[:, None]) * (2 * draws[:, 1:3] - 1)  # the centre, window inside
        grid = F.affine_grid(theta, list(repeated.shape), align_corners=False)
        return F.grid_sample(repeated, grid, padding_mode="border", align_corners=False)

    def _draw(self, generator: torch.Generator) -> Tensor:
        return torch.rand(self.count, 4, generator=generator, device=generator.device)

    def _noise(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        shape = (self.count, *images.shape[1:])
        draws = [torch.randn(shape, generator=g, device=g.device).to(images) for g in generators]
        return torch.cat(draws)  # (B·V, 3, H, W)
