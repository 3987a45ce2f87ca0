"""The door in front of a latent CLIP: noisy latents against prompts, without decoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from clipguide.clip.latent_clip import LatentClip
from clipguide.clip.latent_files import push_latent_clip, save_latent_clip
from clipguide.clip.latent_space import is_of
from clipguide.clip.scorer import Scorer


class LatentScorer(Scorer):
    """Scores noisy latents of one autoencoder against prompts; `load_scorer` returns it.

    Latents are as a scheduler holds them (scaled, unpacked), brought to the normal form
    x/√(α²+σ²), in which every sampler's states are alike; sigma_bar = σ/√(α²+σ²) in [0, 1] is
    their noise level, 0 for the clean latent. Images are refused: the teacher scores them.

    Args:
        model: a latent CLIP, whose parameters are frozen from then on.

    Attributes:
        any_autoencoder: set it to True to take the latents of an autoencoder with other weights
            than the tower was made for, as where only its decoder was tuned further.

    Example:
        >>> scorer = load_scorer("starter:latent")
        >>> scorer.score_latents(torch.randn(2, 4, 16, 16), 1.0, "a red star").shape
        torch.Size([2])

    Source: noised CLIP, Nichol et al. 2022 (section 2.4, https://arxiv.org/abs/2112.10741).
    """

    reads = "latents"

    def __init__(self, model: LatentClip) -> None:
        super().__init__(model)
        self._latent = model
        self.any_autoencoder = False
        self._checked: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    @property
    def autoencoder(self) -> str:
        """`clipguide.clip.latent_space.hash_autoencoder` of the one whose latents it reads."""
        return self._latent.config.autoencoder["float32"]

    @property
    def channels(self) -> int:
        """C of the latents."""
        return self._latent.tower.channels

    @property
    def guidance(self) -> dict[str, Any]:
        """The settings of guidance it was measured best at, by name; empty where none were."""
        return dict(self._latent.config.guidance)

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Rules by which a contrast tells a prompt from other texts, as it was measured best."""
        return tuple(self._latent.config.alternatives)

    @property
    def teacher(self) -> str:
        """The name of the scorer of images whose text tower it has."""
        return self._latent.config.teacher

    @property
    def of_images(self) -> Scorer:
        """The teacher as a scorer of images, in whose space its vectors lie."""
        return Scorer(self._latent.teacher_model)

    def check_autoencoder(self, autoencoder: nn.Module) -> None:
        """Refuse latents of another autoencoder than the one it was trained on.

        Args:
            autoencoder: a pipeline's, in any precision.

        Cost: a hash of its weights, once for each autoencoder.

        Raises:
            ValueError: its weights are others.
        """
        config = self._latent.config
        version = sum(parameter._version for parameter in autoencoder.parameters())
        if self.any_autoencoder or self._checked.get(autoencoder) == version:
            return
        if not is_of(autoencoder, config.autoencoder):
            raise ValueError(
                f"{self.name}: got latents of another autoencoder, expected those of "
                f"{config.autoencoder.get('name', 'its own')} ({self.autoencoder[:12]}...); "
                "where only the decoder was tuned further, set scorer.any_autoencoder = True "
                "(--force on the command line)"
            )
        self._checked[autoencoder] = version

    def encode_latents(
        self, latents: Tensor, sigma_bar: float | Tensor, *, check: bool = True
    ) -> Tensor:
        """(B, D) float32 unit vectors, differentiable in the latents.

        Args:
            latents: (B, C, h, w) in the normal form.
            sigma_bar: one for all, or (B,); in [0, 1].
            check: whether values that are not finite are an error; guidance, which has a guard of
                its own, need not wait for the device.

        Cost: one pass of the latent tower per latent.

        Raises:
            ValueError: another shape or noise level; with `check`, a non-finite latent or weight.
        """
        self._check_shape(latents)
        level = self._level(sigma_bar, len(latents))
        vectors = self._latent.encode_latents(latents.to(self.device), level)
        if check and not vectors.isfinite().all():
            raise ValueError(f"{self.name}: got {self._non_finite(latents)}, expected finite ones")
        return vectors

    def scale_at(self, sigma_bar: float | Tensor) -> Tensor:
        """The learned factor on cosines at a noise level, above 0; () or (B,) as `sigma_bar`."""
        shape = sigma_bar.shape if isinstance(sigma_bar, Tensor) else ()
        count = sigma_bar.numel() if isinstance(sigma_bar, Tensor) else 1
        level = self._level(sigma_bar, count).to(self._latent.dtype)
        scale: Tensor = self._latent.scale(level)
        return scale.to(torch.promote_types(scale.dtype, torch.float32)).reshape(shape)

    def score_latents(
        self, latents: Tensor, sigma_bar: float | Tensor, prompts: str | Sequence[str]
    ) -> Tensor:
        """(B,) cosines, latent i against prompt i; a single string is every latent's prompt.

        Raises:
            ValueError: see `encode_latents` and `encode_text`; or the numbers differ.
        """
        if not isinstance(prompts, str) and len(prompts) != len(latents):
            raise ValueError(
                f"got {len(latents)} latents and {len(prompts)} prompts, expected as many"
            )
        texts = self.encode_text(prompts)  # (B, D) or (1, D)
        vectors = self.encode_latents(latents, sigma_bar)
        return (vectors * texts.to(vectors)).sum(dim=-1)

    def similarity_latents(
        self, latents: Tensor, sigma_bar: float | Tensor, prompts: str | Sequence[str]
    ) -> Tensor:
        """(B, P) cosines of all pairs; otherwise as `score_latents`."""
        texts = self.encode_text(prompts)
        vectors = self.encode_latents(latents, sigma_bar)
        return vectors @ texts.to(vectors).T

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `load_scorer` reads (`clipguide.clip.latent_files`)."""
        save_latent_clip(self._latent, Path(folder))

    def push_to_hub(
        self, repository: str, *, private: bool = True, dry_run: str | None = None
    ) -> str:
        """Upload to the Hub as the user who is logged in there; returns the address of the commit.

        With `dry_run`, a folder, the files are written there instead and nothing leaves this
        machine; returns the folder.
        """
        return push_latent_clip(self._latent, repository, private=private, dry_run=dry_run)

    def encode_image(self, images: object, **options: object) -> NoReturn:
        """Refused: it reads latents."""
        raise ValueError(self._latent.refusal())

    def score(self, images: object, prompts: object) -> NoReturn:
        """Refused: it reads latents."""
        raise ValueError(self._latent.refusal())

    def similarity(self, images: object, prompts: object) -> NoReturn:
        """Refused: it reads latents."""
        raise ValueError(self._latent.refusal())

    def _check_shape(self, latents: Tensor) -> None:
        step = self._latent.tower.multiple
        if latents.ndim != 4 or latents.shape[1] != self.channels or not len(latents):
            expected = f"(B, {self.channels}, h, w)"
            raise ValueError(
                f"{self.name}: got latents {tuple(latents.shape)}, expected {expected}"
            )
        if any(side < step or side % step for side in latents.shape[-2:]):
            size = "x".join(map(str, latents.shape[-2:]))
            raise ValueError(f"{self.name}: got latents of {size}, expected multiples of {step}")
        if not latents.is_floating_point():
            raise ValueError(f"{self.name}: got latents of {latents.dtype}, expected floats")

    def _level(self, sigma_bar: float | Tensor, count: int) -> Tensor:
        """(B,) on the device; float64 as it is."""
        level = torch.as_tensor(sigma_bar, device=self.device).detach()
        level = level.to(torch.promote_types(level.dtype, torch.float32))
        if level.numel() not in (1, count):
            raise ValueError(f"got {level.numel()} noise levels, expected 1 or {count}")
        if not bool(((level >= 0) & (level <= 1)).all()):
            raise ValueError(f"got sigma_bar {level.tolist()}, expected numbers from 0 to 1")
        return level.reshape(-1).expand(count)

    def _non_finite(self, latents: Tensor) -> str:
        bad = (~latents.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            return f"non-finite latents at {bad}"
        for name, weight in self._latent.state_dict().items():
            if not weight.isfinite().all():
                return f"a non-finite weight {name}"
        return "a non-finite embedding of finite latents (too large?)"
