"""A latent image tower made from a teacher's own: a stem that reads noise, then its blocks.

It starts as a good model of clean pictures, and a tower from scratch as none, so that an hour of
training on thousands of photographs is enough (`training/latent/README.md`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.clip.latent_clip import LatentTower
from clipguide.clip.latent_stem import GROUPS, LatentStem, NoiseModulation, level_perceptron
from clipguide.clip.noise_level import noise_features
from clipguide.clip.protocol import ClipModel
from clipguide.clip.teacher_tails import TeacherTail, cut


@dataclass(frozen=True)
class TeacherTowerShape:
    """The shape of a :class:`TeacherTower`, beside the teacher's own.

    Attributes:
        channels: of the latents.
        cells: latent cells on a side of the square pictures it is trained on; the shorter side of
            other latents is resized to as many inside the stem.
        stem_width, stem_blocks: residual blocks of the stem.
        level_width: of what is made of the noise level.
    """

    channels: int = 4
    cells: int = 32
    stem_width: int = 64
    stem_blocks: int = 6
    level_width: int = 128

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 1 or self.stem_width % GROUPS:
            raise ValueError(
                f"got {self}, expected numbers of 1 or more and a width that {GROUPS} divides"
            )


class TeacherTower(LatentTower):
    """(B, C, h, w) noisy latents in the normal form and (B,) sigma_bar -> (B, D), no unit length.

    The stem says what the teacher's features of the clean picture are; the teacher's own blocks,
    copied and trainable, go on from there, each followed by a scale and a shift by the noise level.
    Before training these are nothing, so that on the teacher's true features it is the teacher.
    Batch normalisation keeps the teacher's statistics, dropout is off: the tail never leaves
    evaluation mode.

    Args:
        shape: see `TeacherTowerShape`.
        tail: the teacher's blocks (`clipguide.clip.teacher_tails.cut`), which become its own.

    Example:
        >>> from clipguide.clip.loading import load_scorer
        >>> shape = TeacherTowerShape(channels=16, cells=16)
        >>> tower = TeacherTower.from_teacher(shape, load_scorer("starter").model)
        >>> tower(torch.randn(2, 16, 16, 24), torch.tensor([0.3, 0.9])).shape
        torch.Size([2, 128])
    """

    kind = "teacher"
    multiple = 1
    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: TeacherTowerShape, tail: TeacherTail) -> None:
        super().__init__()
        self.shape, self.channels = shape, shape.channels
        self.tail = tail.float()
        self.tail.requires_grad_(True)
        width, features = shape.level_width, self.tail.channels
        self.patch = max(1, round(shape.cells / min(self.tail.grid)))
        stem = (shape.stem_width, shape.stem_blocks)
        self.level = level_perceptron(width)
        self.stem = LatentStem(shape.channels, features, self.patch, stem, width)
        self.scales = nn.ModuleList(NoiseModulation(width, count) for count in self.tail.widths)
        self.register_buffer("mean", torch.zeros(features, 1, 1))
        self.register_buffer("deviation", torch.ones(features, 1, 1))
        self.train()

    @classmethod
    def from_teacher(cls, shape: TeacherTowerShape, teacher: ClipModel) -> TeacherTower:
        """With a copy of the teacher's blocks and a stem drawn from torch's generator.

        Args:
            shape: see `TeacherTowerShape`.
            teacher: a dual encoder on MobileNetV2 or ResNet, or a CLIP ViT of transformers or
                open_clip. It is not changed.

        Raises:
            ValueError: a teacher of another layout, named.
        """
        return cls(shape, cut(teacher, shape.cells).tail)

    def settings(self) -> dict[str, Any]:
        return asdict(self.shape)

    def train(self, mode: bool = True) -> TeacherTower:
        """As of any module, the tail apart."""
        super().train(mode)
        self.tail.eval()
        return self

    @torch.no_grad()
    def set_statistics(self, features: Tensor) -> None:
        """Take the mean and the deviation of each channel from the teacher's features of clean
        pictures, (N, channels, h, w): the stem's output is in these units."""
        values = features.float().transpose(0, 1).flatten(1)  # (channels, ...)
        self.mean.copy_(values.mean(dim=1)[:, None, None])
        self.deviation.copy_(values.std(dim=1).clamp_min(1e-6)[:, None, None])

    def standardized(self, features: Tensor) -> Tensor:
        """The teacher's features in the stem's units."""
        return (features - self.mean) / self.deviation

    def stem_features(self, latents: Tensor, sigma_bar: Tensor) -> Tensor:
        """The teacher's features of the clean picture, as the stem reads them: (B, channels, h, w),
        mean 0 and deviation 1 over pictures."""
        level = self.level(noise_features(sigma_bar))
        return self.stem(latents, level, self._grid(latents.shape[-2:]))

    def from_features(self, features: Tensor, sigma_bar: Tensor) -> Tensor:
        """What the teacher's blocks make of the stem's features, (B, D)."""
        return self._climbed(features, self.level(noise_features(sigma_bar)))

    def forward(self, latents: Tensor, sigma_bar: Tensor) -> Tensor:
        level = self.level(noise_features(sigma_bar))
        return self._climbed(self.stem(latents, level, self._grid(latents.shape[-2:])), level)

    def _climbed(self, features: Tensor, level: Tensor) -> Tensor:
        state, states = self.tail.enter(features * self.deviation + self.mean), list[Tensor]()
        for block, scale in zip(self.tail.blocks, self.scales, strict=True):
            state = scale(self.tail.step(block, state), level)
            states.append(state)
        return self.tail.leave(states)

    def _grid(self, size: torch.Size) -> tuple[int, int]:
        """Places of the teacher's grid for latents of (h, w): its own on the shorter side."""
        side, short = min(self.tail.grid), min(size)
        rows, columns = (max(1, round(side * length / short)) for length in size)
        return rows, columns
