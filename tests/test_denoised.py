"""Guidance at a denoised x0 without a scheduler: what `guide` does, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from tiny_pipelines import ProjectionReward, generators, tiny_pipeline, tiny_scheduler
from torch import Tensor

from clipguide import LatentReward
from clipguide.attach.decoders import DECODERS
from clipguide.attach.denoised import DenoisedGuide
from clipguide.attach.guide import guide
from clipguide.guidance import GuidanceConfig, NoiseLevel
from clipguide.rewards import as_reward

REWARD = as_reward(ProjectionReward())


def draws(seed: int) -> tuple[Tensor, Tensor]:
    """A model output and a noisy latent of two samples."""
    generator = torch.Generator().manual_seed(seed)
    out, x = torch.randn(2, 2, 4, 8, 8, generator=generator)
    return out, x


def stepped(scheduler: Any, config: GuidanceConfig) -> list[tuple[Tensor, Tensor, float, Tensor]]:
    """Of the steps of a guided scheduler: x0, x, sigma and the x0 that it went on with."""
    pipe, found = tiny_pipeline(scheduler=scheduler), []
    with guide(pipe, REWARD, config=config):
        scheduler.set_timesteps(4)
        for index, timestep in enumerate(scheduler.timesteps):
            out, x = draws(index)
            sigma = float(scheduler.sigmas[index])
            scheduler._step_index = index
            after = scheduler.step(out, timestep, x, return_dict=False)[0]
            following = float(scheduler.sigmas[index + 1])
            moved = (after * sigma - x * following) / (sigma - following)
            found.append((x - sigma * out, x, sigma, moved))
    return found


@pytest.mark.parametrize("normalize", ["rms", "clamp"])
@pytest.mark.parametrize("flow", [False, True])
def test_the_displacement_is_that_of_guide(flow: bool, normalize: str) -> None:
    """Of an Euler step x' = x0 + (x - x0)·sigma'/sigma, solved for x0."""
    scheduler = (
        FlowMatchEulerDiscreteScheduler() if flow else tiny_scheduler(EulerDiscreteScheduler)
    )
    config = GuidanceConfig(strength=0.5, normalize=normalize, window=(0.2, 1.0), every=2)
    vae = tiny_pipeline().vae
    here = DenoisedGuide(REWARD, DECODERS["AutoencoderKL"](vae), config)
    moved = 0
    for x0, x, sigma, expected in stepped(scheduler, config):
        level = NoiseLevel(1 - sigma if flow else 1.0, sigma)
        found = here(x0, x, level)
        moved += not torch.equal(found, x0)
        largest = float(x0.abs().max())  # the scheduler's x0 is that of float32 sums as large
        torch.testing.assert_close(found - x0, expected - x0, rtol=1e-4, atol=1e-5 * largest)
    assert moved == len(here.trace.steps) == 2


def test_strength_0_gives_back_the_very_tensor() -> None:
    out, x = draws(0)
    guidance = DenoisedGuide(REWARD, lambda z: z[:, :3].sigmoid().repeat(1, 1, 2, 2),
                             GuidanceConfig(strength=0))  # fmt: skip
    assert guidance(out, x, NoiseLevel(1.0, 2.0)) is out
    assert guidance.trace.steps[0].score.shape == (2,)


def test_latents_are_climbed_without_a_decoder_and_in_inference_mode() -> None:
    reward = LatentReward(lambda z, sigma_bar: z.flatten(1).sum(1))
    config = GuidanceConfig(mode="noisy", strength=0.5, normalize="raw")
    guidance = DenoisedGuide(reward, None, config, generators(1)[0])
    with torch.inference_mode():
        out, x = draws(0)
        found = guidance(out.half(), x.half(), NoiseLevel(1.0, 2.0))
    # sigma²/alpha · ∂(x/√5)/∂x · strength
    expected = out.half().float() + 0.5 * 4 / 5**0.5
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "xt"},
        {"mode": "tilt"},
        {"target": "next"},
        {"recurrence": 1},
        {"normalize": "cfg"},
        {"scale": "increase"},
    ],
)
def test_what_needs_the_denoiser_or_the_next_step_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at a denoised x0, expected"):
        DenoisedGuide(REWARD, lambda z: z, GuidanceConfig(**settings))


def test_a_reward_of_images_needs_a_decoder_and_a_run_a_guided_step() -> None:
    with pytest.raises(ValueError, match="without decode"):
        DenoisedGuide(REWARD, None, GuidanceConfig())
    guidance = DenoisedGuide(REWARD, lambda z: z, GuidanceConfig(window=(0.0, 0.1)))
    out, x = draws(0)
    assert guidance(out, x, NoiseLevel(1.0, 9.0)) is out
    with pytest.raises(RuntimeError, match="the window covers none"):
        guidance.check_used()
