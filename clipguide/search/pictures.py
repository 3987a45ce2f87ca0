"""What pipeline calls of a search made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    """What pipeline calls made.

    Attributes:
        images: (N, 3, H, W) in [0, 1].
        latents: the clean latents that they were decoded from, (N, C, h, w); None unless the final
            reward reads latents.
    """

    images: Tensor
    latents: Tensor | None

    @staticmethod
    def joined(parts: Sequence[Pictures]) -> Pictures:
        """Of several calls, in order."""
        latents = [part.latents for part in parts if part.latents is not None]
        images = torch.cat([part.images for part in parts])
        return Pictures(images, torch.cat(latents) if latents else None)

    def rows(self) -> list[Pictures]:
        """One by one."""
        latents = [None] * len(self.images) if self.latents is None else self.latents.split(1)
        return [Pictures(*row) for row in zip(self.images.split(1), latents, strict=True)]
