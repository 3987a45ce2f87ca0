"""Runs of ComfyUI's sampler, one seed each, in parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from clipguide.guidance.gradient import Decode
from clipguide.rewards import Reward
from clipguide.rewards.base import terms_that_read
from clipguide.seeds import derive_generator, make_generators


@dataclass(frozen=True)
class SamplerSettings:
    """What KSampler is given beside model, latent and seed."""

    positive: Any
    negative: Any
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float


@dataclass(frozen=True)
class SeedRun:
    """One seed's run, as far as it has come.

    Attributes:
        seed: of its noise.
        step: steps that were made.
        samples: its latents after them, in the scale of the VAE, (1, C, h, w).
        score: of its picture as it was predicted in the last of them.
    """

    seed: int
    step: int = 0
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    score: float = -math.inf


@dataclass(frozen=True)
class Previews:
    """The reward of a predicted picture.

    Attributes:
        reward: of pictures, of latents, or of both.
        decode: latents as the sampler steps them to pictures; None for a reward of latents.
    """

    reward: Reward
    decode: Decode | None

    def score(self, x0: Tensor, seed: int) -> float:
        """The reward of x0, (1, C, h, w) as the sampler steps it.

        Raises:
            ValueError: it is not a number.
        """
        drawn = [derive_generator(make_generators([seed])[0], "prune")]
        total = 0.0
        of_images = terms_that_read(self.reward, "images")
        if of_images is not None and self.decode is not None:
            total += float(of_images(self.decode(x0), generators=drawn))
        of_latents = terms_that_read(self.reward, "latents")
        if of_latents is not None:
            total += float(of_latents.of_latents(x0, 0.0, generators=drawn))
        if not math.isfinite(total):
            raise ValueError(f"got reward {total} for seed {seed}, expected a number")
        return total


class SeedRuns:
    """The runs of one model from one latent.

    Args:
        model: a ComfyUI model, guided or not.
        latent: a ComfyUI LATENT of one picture.
        settings: of the sampler.
        previews: what scores them.
    """

    def __init__(
        self, model: Any, latent: Any, settings: SamplerSettings, previews: Previews
    ) -> None:
        samples = comfy.sample.fix_empty_latent_channels(
            model,
            latent["samples"],
            latent.get("downscale_ratio_spacial"),
            latent.get("downscale_ratio_temporal"),
        )
        if len(samples) != 1:
            raise ValueError(f"got {len(samples)} latents to begin from, expected one")
        if "noise_mask" in latent:
            raise ValueError("got a latent with a mask, expected one without")
        self._model, self._begin = model, samples
        self._settings, self._previews = settings, previews

    def calls(self) -> int:
        """Steps of a whole run; some schedules have fewer than they are asked for.

        Raises:
            ValueError: none.
        """
        settings, model = self._settings, self._model
        sampler = comfy.samplers.KSampler(
            model, settings.steps, model.load_device, settings.sampler_name, settings.scheduler,
            settings.denoise, model.model_options,
        )  # fmt: skip
        calls = len(sampler.sigmas) - 1
        if calls < 1:
            raise ValueError(f"got denoise {settings.denoise}, expected more than 0")
        return calls

    def to_step(self, runs: list[SeedRun], step: int) -> list[SeedRun]:
        """The runs after `step` steps in all, with the rewards of their pictures.

        Cost: the missing steps, one decode and one score for each.
        """
        return [self._sampled(run, step) for run in runs]

    def _sampled(self, run: SeedRun, step: int) -> SeedRun:
        settings = self._settings
        finished = step == self.calls()
        begins, latent = run.step == 0, self._begin if run.step == 0 else run.samples
        noise = comfy.sample.prepare_noise(latent, run.seed) if begins else zeros(latent)
        seen = _LastSeen(latent_preview.prepare_callback(self._model, settings.steps))
        samples: Tensor = comfy.sample.sample(
            self._model, noise, settings.steps, settings.cfg, settings.sampler_name,
            settings.scheduler, settings.positive, settings.negative, latent,
            denoise=settings.denoise, disable_noise=not begins, start_step=run.step,
            last_step=step, force_full_denoise=finished, callback=seen, disable_pbar=True,
            seed=run.seed,
        )  # fmt: skip
        form = self._model.get_model_object("latent_format")
        x0 = form.process_in(samples) if finished else seen.x0
        score = self._previews.score(x0.to(torch.float32), run.seed)
        return replace(run, step=step, samples=samples, score=score)


class _LastSeen:
    """A sampler's callback that keeps the x0 of the last step."""

    def __init__(self, shown: Callable[..., None]) -> None:
        self.x0 = torch.empty(0)
        self._shown = shown

    def __call__(self, step: int, x0: Tensor, x: Tensor, total: int) -> None:
        self.x0 = x0
        self._shown(step, x0, x, total)


def zeros(latent: Tensor) -> Tensor:
    """No noise: a run goes on from where it was."""
    return torch.zeros_like(latent, device="cpu")
