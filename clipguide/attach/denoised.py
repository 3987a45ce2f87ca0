"""Guidance of a sampler that is no scheduler of diffusers': it hands out x0 and gets it back moved.

After the contract of k-diffusion (Karras et al. 2022, https://arxiv.org/abs/2206.00364), in which a
sampler asks `model(x, sigma) -> denoised`; ComfyUI's samplers are all of this kind. The session and
the modes are those of `guide`: the same x0, noise level and reward give the same displacement.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clipguide.attach.guide import check_guided
from clipguide.attach.latent_reading import LatentReading, never_decoded
from clipguide.attach.modes import Objective, check_reads, find_mode
from clipguide.attach.preserve import Freeze
from clipguide.attach.schedule import Schedule
from clipguide.attach.session import Session
from clipguide.attach.step_cursor import StepCursor
from clipguide.attach.view_generators import GeneratorArgument
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.gradient import Decode
from clipguide.guidance.parameterization import NoiseLevel, Parameterization, parameterization
from clipguide.guidance.scale import Levels
from clipguide.guidance.trace import Trace
from clipguide.rewards.base import Reward


class DenoisedGuide:
    """Displaces the denoised x0 of every step of one sampler's run so that it climbs a reward.

    Args:
        reward: what to climb.
        decode: x0 (B, C, h, w) as the sampler steps it, to images (B, 3, H, W) in [0, 1]; of a
            module, no parameter requires a gradient while one is taken. None for a reward that
            reads latents alone.
        config: the settings, of mode "x0" or "noisy".
        generator: of the run; its seeds are those of the reward's views, and it is not advanced.

    Attributes:
        trace: filled while the sampler runs. A timestep in it is the sampler's sigma.

    Raises:
        ValueError: settings that reach into the denoiser or past the step (modes "xt" and "tilt",
            targets other than "output", recurrence, normalize="cfg"); a reward that the mode does
            not read; a reward of images without `decode`.

    Cost: a call is one guided step, see `clipguide.guide`.

    Example:
        >>> to_images = lambda latents: latents[:, :3].sigmoid()  # a sampler's own decoder
        >>> guidance = DenoisedGuide(reward, to_images, GuidanceConfig(strength=0.1))
        >>> denoised, x = torch.randn(2, 1, 4, 32, 32)
        >>> guidance(denoised, x, NoiseLevel(alpha=1.0, sigma=2.0)).shape
        torch.Size([1, 4, 32, 32])
    """

    def __init__(
        self,
        reward: Reward,
        decode: Decode | None,
        config: GuidanceConfig,
        generator: GeneratorArgument = None,
    ) -> None:
        check_reads(config.mode, reward)
        _refuse(config)
        if decode is None and "images" in reward.reads:
            raise ValueError("got a reward that reads images without decode, expected a decoder")
        modules = [decode] if isinstance(decode, nn.Module) else []
        reading = LatentReading(_itself, decode or never_decoded, None)
        self._schedule = _NamedLevels()
        self._session = Session(
            self._schedule, Objective(reward, reading, Freeze(modules), config), generator
        )

    @property
    def trace(self) -> Trace:
        """What was done so far."""
        return self._session.trace

    def __call__(self, denoised: Tensor, x: Tensor, level: NoiseLevel) -> Tensor:
        """The x0 to go on with.

        Args:
            denoised: x0 after classifier-free guidance, (B, C, h, w).
            x: the noisy latent, (B, C, h, w).
            level: x = alpha·x0 + sigma·eps.

        Returns:
            (B, C, h, w) in the type of `denoised`; `denoised` itself at strength 0 and in steps
            that are not guided.
        """
        self._schedule.now = level
        moved = self._session.output(denoised, x, torch.tensor(level.sigma))
        return moved.to(denoised.dtype)

    def check_used(self) -> None:
        """To be called when the run has ended.

        Raises:
            RuntimeError: no step was guided.

        Warns:
            RuntimeWarning: samples that values that are not finite left unguided.
        """
        check_guided(self._session)


class _NoTimesteps:
    """In the place of a scheduler."""

    timesteps = torch.empty(0)


class _NamedLevels(Schedule):
    """The noise level is what the sampler says, and the model output is x0 itself."""

    def __init__(self) -> None:
        self.scheduler: Any = _NoTimesteps()
        self.cursor = StepCursor(self.scheduler)
        self.now = NoiseLevel(1.0, 1.0)

    def level(self, timestep: Any) -> NoiseLevel:
        return self.now

    def levels(self, timestep: Any, *, following: bool) -> Levels:
        return Levels(self.now)

    def form(self, level: NoiseLevel) -> Parameterization:
        return parameterization("sample", level)

    def finished(self, x0: Tensor) -> Tensor:
        return x0


def _itself(latents: Tensor) -> Tensor:
    return latents


def _refuse(config: GuidanceConfig) -> None:
    mode = find_mode(config.mode)
    if mode.graph_through_denoiser or mode.acts_after_step or config.mode == "tilt":
        raise ValueError(f"got mode={config.mode!r} at a denoised x0, expected 'x0' or 'noisy'")
    if config.target != "output" or config.recurrence or config.normalize == "cfg":
        raise ValueError(
            f"got target {config.target!r}, recurrence={config.recurrence} and normalize "
            f"{config.normalize!r} at a denoised x0, expected 'output', 0 and not 'cfg'"
        )
    if config.single_step:
        raise ValueError(
            f"got scale {config.scale!r} at a denoised x0, expected one that does not ask for the "
            "noise level of the next step"
        )
