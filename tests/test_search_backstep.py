"""Back-steps and the gradient of the noise, against what schedulers and autograd say themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from tiny_pipelines import ProjectionReward
from tiny_search import PROMPT, STEPS, decoded, denoised, make_latents, pipeline, plain, run
from torch import Tensor

from clipguide.attach.observe import observe
from clipguide.guidance.inward_clamp import inward_clamp
from clipguide.images import to_pil
from clipguide.rewards.base import LatentReward, as_reward
from clipguide.search import BackStep, NoiseGradient, search
from clipguide.search.backstep import _again, _new
from clipguide.search.call import Call
from clipguide.search.rollout import Rollout
from clipguide.search.stages import StageRewards
from clipguide.seeds import derive_generator, make_generators

REWARD = ProjectionReward()


def rollout_of(pipe: Any, observer: Any) -> Rollout:
    return Rollout(
        Call(pipe, PROMPT, {"num_inference_steps": 6}), StageRewards(as_reward(REWARD)), 1, observer
    )


@pytest.mark.parametrize("cls", [
    DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler,
    HeunDiscreteScheduler,
])  # fmt: skip
def test_a_deterministic_sampler_goes_on_from_the_noised_picture(cls: Any) -> None:
    """It is given alpha·x0 + sigma·eps of its own level, whatever its order."""
    pipe, calls, seed = pipeline(cls), 3, 5
    seen: list[Tensor] = []  # by the denoiser, which runs for the steps that are not replayed
    with observe(pipe) as observer:
        rollout = rollout_of(pipe, observer)
        _, line = _new(rollout, 0)
        watch = pipe.unet.conv_in.register_forward_pre_hook
        with watch(lambda _m, inputs: seen.append(inputs[0][:1])):
            _again(rollout, line, calls, seed)
    fresh = derive_generator(make_generators([seed])[0], "back-step")
    noise = torch.randn(line.clean.shape, generator=fresh)
    level = line.levels[calls]
    expected = (level.alpha * line.clean + level.sigma * noise) / level.radius
    assert len(seen) == len(line.levels) - calls
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)


def test_the_picture_is_what_the_scheduler_makes_of_it() -> None:
    """DDIM, step by step from the noised latent."""
    pipe = pipeline(DDIMScheduler)
    with observe(pipe) as observer:
        rollout = rollout_of(pipe, observer)
        _, line = _new(rollout, 0)
        found, clean = _again(rollout, line, 3, 5)
    noise = torch.randn(
        line.clean.shape, generator=derive_generator(make_generators([5])[0], "back-step")
    )
    latents = line.levels[3].alpha * line.clean + line.levels[3].sigma * noise
    with torch.no_grad():
        for t in pipe.scheduler.timesteps[3:]:
            latents = pipe.scheduler.step(denoised(pipe, latents, t), t, latents).prev_sample
        image = decoded(pipe, latents)
    torch.testing.assert_close(found.score, float(REWARD(image)), atol=1e-4, rtol=0)
    torch.testing.assert_close(clean, latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize("cls", [DDPMScheduler, DDIMScheduler])
def test_new_pictures_are_plain_calls_and_back_steps_are_others(cls: Any) -> None:
    found = run(pipeline(cls), BackStep(0.5, 2), budget=4, batch_size=1)
    assert len(found) == 6
    by_seed = {c.seed: c for c in found}
    for seed in (0, 3):  # the first of each three
        image = plain(pipeline(cls), seed)
        assert by_seed[seed].image.tobytes() == to_pil(image)[0].tobytes()
    assert len({c.image.tobytes() for c in found}) == 6


def test_until_stops_between_back_steps() -> None:
    pipe = pipeline(DDIMScheduler)
    made: list[int] = []
    with pipe.unet.conv_in.register_forward_pre_hook(lambda _m, x: made.append(len(x[0]) // 2)):
        found = run(pipe, BackStep(0.5), budget=8, until=-1e9)
    assert (len(found), sum(made)) == (1, STEPS)
    scores = [c.score for c in run(pipeline(DDIMScheduler), BackStep(0.5), budget=2)]
    best = run(pipeline(DDIMScheduler), BackStep(0.5), budget=8, until=max(scores))
    assert best[0].score >= max(scores)
    assert len(best) <= 3


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(BackStep, {"back": 0.0}), (BackStep, {"back": 1.0}), (BackStep, {"tries": 0}),
     (NoiseGradient, {"rate": 0.0}), (NoiseGradient, {"momentum": 1.0}),
     (NoiseGradient, {"clip": float("inf")})],
)  # fmt: skip
def test_settings_out_of_range(kind: Any, settings: Any) -> None:
    with pytest.raises(ValueError, match=f"got {next(iter(settings))}="):
        kind(**settings)


# ----------------------------------------------------------------------------------- noise gradient


def climbed(pipe: Any, noise: Tensor, steps: int) -> Tensor:
    """The reward of a noise, through every step by hand."""
    pipe.scheduler.set_timesteps(steps)
    latents = noise
    for t in pipe.scheduler.timesteps:
        latents = pipe.scheduler.step(denoised(pipe, latents, t), t, latents).prev_sample
    image = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    return REWARD(inward_clamp(image / 2 + 0.5))


@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_is_that_of_the_whole_run(steps: int) -> None:
    pipe = pipeline(DDIMScheduler)
    start = make_latents(pipe, make_generators([3]))
    leaf = start.clone().requires_grad_()
    (slope,) = torch.autograd.grad(climbed(pipe, leaf, steps).sum(), leaf)
    norm, scale = start.norm(), start.norm() / start.numel() ** 0.5
    rate, momentum, clip = 0.5, 0.9, 0.1
    slope = slope * scale
    slope = slope * min(1.0, clip / float(slope.norm()))
    moved = start + rate * scale * (1 + momentum) * slope
    moved = moved * norm / moved.norm()
    with torch.no_grad():
        expected = [float(climbed(pipe, noise, steps)) for noise in (start, moved)]
    found = search(
        pipeline(DDIMScheduler), PROMPT, REWARD, NoiseGradient(rate, momentum, clip), 2, seed=3,
        num_inference_steps=steps,
    )  # fmt: skip
    assert sorted(c.score for c in found) == pytest.approx(sorted(expected), abs=1e-4)


def test_it_climbs_and_leaves_the_pipeline_as_it_was() -> None:
    pipe = pipeline(DDIMScheduler)
    before = plain(pipe, 0)
    trained = [p.requires_grad for p in pipe.unet.parameters()]
    found = run(pipe, NoiseGradient(rate=2.0), budget=6, num_inference_steps=2)
    first = search(pipe, PROMPT, REWARD, budget=1, num_inference_steps=2)[0]
    assert found[0].score > first.score
    assert len(found) == 6
    assert first.image.tobytes() in {c.image.tobytes() for c in found}
    assert [p.requires_grad for p in pipe.unet.parameters()] == trained
    assert torch.equal(plain(pipe, 0), before)
    again = run(pipe, NoiseGradient(rate=2.0), budget=6, num_inference_steps=2)
    assert [c.score for c in again] == [c.score for c in found]


def test_momentum_is_that_of_torch() -> None:
    """torch.optim.SGD with nesterov on -reward, before the norm is put back."""
    method = NoiseGradient(rate=0.3, momentum=0.8, clip=1e9)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    noise = noise * noise.numel() ** 0.5 / noise.norm()  # unit deviation
    weight = noise.clone().requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.3, momentum=0.8, nesterov=True)
    velocity, size = None, noise.norm()
    for seed in (1, 2, 3):
        gradient = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
        noise, velocity = method.moved(noise, gradient, velocity)
        weight.grad = -gradient
        optimizer.step()
        with torch.no_grad():
            weight *= size / weight.norm()
        torch.testing.assert_close(noise, weight.detach())


def test_latents_climb_too_and_flat_rewards_are_refused() -> None:
    reward = LatentReward(lambda latents, _: latents.mean((1, 2, 3)))
    pipe, few = pipeline(DDIMScheduler), {"num_inference_steps": 2}
    found = search(pipe, PROMPT, reward, NoiseGradient(), 3, **few)
    assert found[0].score > min(c.score for c in found)
    with pytest.raises(ValueError, match="without a gradient"):
        search(pipe, PROMPT, lambda x: x.mean((1, 2, 3)).detach(), NoiseGradient(), 1, **few)
