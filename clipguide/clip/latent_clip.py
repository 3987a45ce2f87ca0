"""A CLIP whose image tower reads noisy latents; its text tower is its teacher's, frozen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.noise_level import NoiseScale
from clipguide.clip.preprocess import Preprocess

if TYPE_CHECKING:
    from clipguide.clip.protocol import ClipModel
    from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import hash_values


class LatentTower(nn.Module, ABC):
    """Noisy latents and their noise level to features in the teacher's space.

    Attributes:
        kind: the name of its class in `clipguide.clip.latent_files.TOWERS`.
        channels: C of the latents.
        multiple: what height and width of the latents must be divisible by.
    """

    kind: str
    channels: int
    multiple: int

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that builds it anew, as JSON; the weights aside."""

    @abstractmethod
    def forward(self, latents: Tensor, sigma_bar: Tensor) -> Tensor:
        """(B, C, h, w) in the normal form and (B,) in [0, 1] -> (B, D), of any length."""


@dataclass(frozen=True)
class LatentClipConfig:
    """What a latent CLIP is, apart from its weights.

    Attributes:
        teacher: whose text tower and embedding space it shares: a name for `load_scorer`; a folder
            that begins with a dot is beside the model's own files.
        teacher_hash: the `content_hash` of that scorer in float32.
        autoencoder: what it is called, and by precision the hash of its weights
            (`clipguide.clip.latent_space`).
        guidance: the settings of guidance it was measured best at.
        made: how it was trained, for the model card.
        figures: what it was measured at, by name.
        alternatives: by which rules (`clipguide.data.alternatives`) a prompt is best told from
            other texts in a contrast.
        teacher_settings: the `settings_hash` of the teacher; empty in older files, where it is not
            compared.
    """

    teacher: str
    teacher_hash: str
    autoencoder: Mapping[str, str]
    guidance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    made: Mapping[str, Any] = field(default_factory=dict[str, Any])
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    teacher_settings: str = ""
    alternatives: tuple[str, ...] = ("swaps",)


class LatentClip(nn.Module):
    """Two towers into one space of unit vectors, one of which reads latents (see `ClipModel`).

    Args:
        name: what the user called it.
        tower: reads latents.
        scale: the factor on cosines by noise level.
        teacher: a scorer of images, whose text tower is used.
        config: see `LatentClipConfig`.
    """

    noise_aware = True

    def __init__(
        self, name: str, tower: LatentTower, scale: NoiseScale, teacher: Scorer,
        config: LatentClipConfig,
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.config = name, config
        self.tower, self.scale = tower, scale
        self._teacher = teacher.model
        self.teacher = teacher.model.module  # a child, so that it moves where the towers move

    @property
    def module(self) -> nn.Module:
        """Itself, as `ClipModel` asks."""
        return self

    @property
    def preprocess(self) -> Preprocess:
        raise ValueError(self.refusal())

    @property
    def teacher_model(self) -> ClipModel:
        """The teacher itself, both towers."""
        return self._teacher

    @property
    def context_length(self) -> int:
        return self._teacher.context_length

    @property
    def settings_hash(self) -> str:
        """Of its own tower's settings and of the teacher's; empty where those are not known."""
        known = self._teacher.settings_hash
        return hash_values(tower=self.tower.settings(), teacher=known) if known else ""

    @property
    def embed_dim(self) -> int:
        return self._teacher.embed_dim

    @property
    def device(self) -> torch.device:
        return next(self.tower.parameters()).device

    @property
    def logit_scale(self) -> float:
        """The factor on cosines without noise."""
        return float(self.scale(torch.zeros(1, device=self.device).to(self.dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """Of the tower's weights."""
        return next(self.tower.parameters()).dtype

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> (P, D) float32 unit vectors, by the teacher."""
        return self._teacher.encode_text(prompts)

    def encode_image(self, pixels: Tensor) -> Tensor:
        raise ValueError(self.refusal())

    def encode_latents(self, latents: Tensor, sigma_bar: Tensor) -> Tensor:
        """(B, C, h, w), (B,) -> (B, D) unit vectors, in float32 or the tower's own if wider."""
        features = self.tower(latents.to(self.dtype), sigma_bar.to(self.dtype))
        wide = torch.promote_types(features.dtype, torch.float32)
        return functional.normalize(features.to(wide), dim=-1)

    def refusal(self) -> str:
        """Why it scores no images."""
        return (
            f"{self.name}: got images, expected latents: this model reads noisy latents and their "
            f"noise level. A scorer of images is its teacher, load_scorer({self.config.teacher!r})"
        )
