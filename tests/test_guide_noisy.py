"""Mode noisy: rewards that read the noisy latent, on every kind of sampler and pipeline."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import diffusers
import pytest
import torch
from test_latent_scorer import latent_clip
from tiny_pipelines import (
    ProjectionReward,
    call,
    draw,
    generators,
    tiny_pipeline,
    tiny_scheduler,
    tiny_vae,
)
from torch import Tensor

from clipguide import ClipReward, ContrastReward, LatentReward, load_scorer, load_starter
from clipguide.attach.guide import guide
from clipguide.attach.latent_reading import LatentReading
from clipguide.attach.modes import Objective, StepContext
from clipguide.attach.modes.noisy import NoisyGradient
from clipguide.attach.observe import observe
from clipguide.attach.preserve import Freeze
from clipguide.attach.schedule import Schedule
from clipguide.clip.latent_scorer import LatentScorer
from clipguide.guidance import GuidanceConfig, NoiseLevel, guidance_for, parameterization
from clipguide.guidance.scale import Levels
from clipguide.rewards import Reward, Views, WeightedSum, as_reward

SCHEDULERS = (
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("EDMEulerScheduler", {}),
    (
        "DPMSolverMultistepScheduler",  # alpha .001 at its first step
        {"prediction_type": "flow_prediction", "use_flow_sigmas": True},
    ),
)
WEIGHT = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(7))


def linear(latents: Tensor, sigma_bar: float) -> Tensor:
    return (latents * WEIGHT).flatten(1).sum(1)


@cache
def scorer_of_tiny_vae() -> LatentScorer:
    return LatentScorer(latent_clip(tiny_pipeline().vae))


def contrast() -> ContrastReward:
    return ContrastReward(scorer_of_tiny_vae(), "a red star left of a blue ring")


def first_steps(pipe: Any, reward: Any = None, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    """(sample, x0) of every step."""
    seen: list[tuple[Tensor, Tensor]] = []

    def watch(step: Any) -> None:
        seen.append((step.sample.clone(), step.x0()))

    if reward is None:
        with observe(pipe) as observer, observer.watching(watch):
            draw(pipe, 0, 1)
        return seen
    with (
        guide(pipe, reward, **settings),
        observe(pipe) as observer,
        observer.watching(watch),
    ):
        draw(pipe, 0, 1)
    return seen


# ------------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=str)
def test_x0_moves_by_the_posterior_s_slope(name: str, config: dict[str, Any]) -> None:
    """delta = s·(sigma²/alpha)·w/radius for reward <w, x/radius>, by the scheduler's levels;
    in less signal than Stable Diffusion's schedule ends in, as EDM begins with, less."""
    pipe = tiny_pipeline(scheduler=tiny_scheduler(getattr(diffusers, name), **config))
    plain = first_steps(pipe)
    moved = first_steps(pipe, LatentReward(linear), strength=0.01, normalize="raw")
    pipe.scheduler.set_timesteps(4)
    level = Schedule(pipe.scheduler).level(pipe.scheduler.timesteps[0])
    if name == "DDIMScheduler":  # the scheduler's own numbers
        alpha = float(pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[0])]) ** 0.5
        assert level.alpha == pytest.approx(alpha, rel=1e-6)
    radius = math.hypot(level.alpha, level.sigma)
    seen = min(level.alpha / radius / 0.068, 1)
    expected = 0.01 * level.sigma**2 / level.alpha * seen**2 / radius * WEIGHT
    torch.testing.assert_close(moved[0][0], plain[0][0], rtol=0, atol=0)
    found = moved[0][1] - plain[0][1]
    torch.testing.assert_close(
        found, expected.expand_as(found), rtol=1e-3, atol=3e-5 * float(plain[0][1].abs().max())
    )


def mode_at(reward: Reward, strength: float = 1.0) -> NoisyGradient:
    reading = LatentReading(lambda x: x, lambda x: x[:, :3].sigmoid(), None)
    objective = Objective(
        reward, reading, Freeze([]), GuidanceConfig(strength, "noisy", normalize="raw")
    )
    return NoisyGradient(objective, Schedule(tiny_scheduler(diffusers.DDIMScheduler)))


def at(level: NoiseLevel, prediction: str = "v_prediction") -> StepContext:
    form = parameterization(prediction, level)
    return StepContext(500, Levels(level), form, lambda purpose, batch: generators(*range(batch)))


ANGLE = 1.1
FORMS = {
    "variance preserving": NoiseLevel(math.cos(ANGLE), math.sin(ANGLE)),
    "k-diffusion and EDM": NoiseLevel(1.0, math.tan(ANGLE)),
    "flow": NoiseLevel(1 / (1 + math.tan(ANGLE)), math.tan(ANGLE) / (1 + math.tan(ANGLE))),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_state_has_one_score_in_every_form(form: str) -> None:
    mode = mode_at(contrast())
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    level = FORMS[form]
    _, found, _ = mode.evaluated(torch.zeros_like(z), level.radius * z, at(level))
    plain = contrast().of_latents(z, math.sin(ANGLE))
    torch.testing.assert_close(found.score, plain, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_central_differences() -> None:
    scorer = LatentScorer(latent_clip(tiny_vae()).double())
    reward = 0.5 * ContrastReward(scorer, "a red star left of a blue ring") + 0.3 * as_reward(
        lambda pictures: pictures.square().flatten(1).mean(1)
    )
    mode, level = mode_at(reward), NoiseLevel(0.6, 0.9)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3)).double()
    step = at(level)
    # out = c·x makes x0 = x·alpha/(alpha²+sigma²): the slope by which h is carried to x_t
    share = level.alpha / level.radius**2
    form = step.form
    out = (share - form.a) / form.b

    def score(at_x: Tensor) -> float:
        return float(mode.evaluated(out * at_x, at_x, step)[1].score)

    _, found, _ = mode.evaluated(out * x, x, step)
    for place in ((0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 1, 0), (0, 3, 3, 2)):
        move = torch.zeros_like(x)
        move[place] = 1e-5
        slope = (score(x + move) - score(x - move)) / 2e-5
        assert abs(float(found.gradient[place]) - slope) < 1e-6
    assert float(found.gradient.abs().max()) > 1e-4


def test_terms_of_both_kinds_add() -> None:
    pipe, pixel = tiny_pipeline(), as_reward(ProjectionReward())
    latent, settings = LatentReward(linear), {"strength": 0.01, "normalize": "raw"}
    plain = first_steps(pipe)[0][1]
    one = first_steps(pipe, latent, **settings)[0][1] - plain
    two = first_steps(pipe, 1000 * pixel, **settings)[0][1] - plain
    both = first_steps(pipe, latent + 1000 * pixel, **settings)[0][1] - plain
    torch.testing.assert_close(both, one + two, rtol=1e-3, atol=1e-3)
    assert two.abs().max() > 0.01
    assert (latent + pixel).reads == "images and latents"


def test_views_shift_and_flip_the_latent() -> None:
    reward = ClipReward(scorer_of_tiny_vae(), "a red star", views=Views(count=3, shift=2))
    x = torch.randn(1, 4, 8, 8)
    found = reward.of_latents(x, 0.5, generators=generators(4))
    places = torch.randint(-2, 3, (3, 2), generator=generators(4)[0]).tolist()
    plain = ClipReward(scorer_of_tiny_vae(), "a red star")
    each = [plain.of_latents(x.roll(place, (-2, -1)), 0.5) for place in places]
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    mirrored = ClipReward(scorer_of_tiny_vae(), "a red star", views=Views(count=8, flip=True))
    ways = torch.cat([plain.of_latents(x, 0.5), plain.of_latents(x.flip(-1), 0.5)])
    value = mirrored.of_latents(x, 0.5, generators=generators(4))
    assert ways.min() <= value <= ways.max()


# ------------------------------------------------------------------------- what goes by itself


def test_mode_and_strength_are_the_scorer_s() -> None:
    scorer = load_scorer("starter:latent")
    reward = ContrastReward(scorer, "a red star left of a blue ring")
    config = guidance_for(reward)
    assert isinstance(scorer, LatentScorer)
    assert (config.mode, config.strength) == ("noisy", scorer.guidance["strength"])
    assert guidance_for(reward, strength=3.0).strength == 3.0
    assert guidance_for(as_reward(ProjectionReward())) == GuidanceConfig()
    pipe = load_starter()
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 8, "guidance_scale": 3.0}
    with guide(pipe, reward, 0.0) as plain:
        pipe("a red star left of a blue ring", generator=generators(1), **options)
    with guide(pipe, reward) as trace:
        pipe("a red star left of a blue ring", generator=generators(1), **options)
    assert trace.steps[-1].score > plain.steps[-1].score + 0.05


@pytest.mark.parametrize(
    ("reward", "settings", "message"),
    [
        (LatentReward(linear), {"mode": "x0"}, "got mode='x0' with a reward that reads latents"),
        (LatentReward(linear), {"mode": "tilt"}, "expected mode='noisy'"),
        (as_reward(ProjectionReward()), {"mode": "noisy"}, "expected one that reads latents"),
        (LatentReward(linear), {"damping": 1.0}, "got mode 'noisy' with damping=1.0"),
        (LatentReward(linear), {"smoothing": 2}, "got mode 'noisy' with smoothing=2"),
    ],
    ids=["x0", "tilt", "noisy of images", "damping", "smoothing"],
)
def test_what_does_not_go_together(reward: Reward, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message), guide(tiny_pipeline(), reward, **settings):
        pass


def test_a_latent_reward_reads_no_images_and_others_no_latents() -> None:
    with pytest.raises(ValueError, match="got images, expected latents"):
        LatentReward(linear)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="got latents, expected images"):
        as_reward(ProjectionReward()).of_latents(torch.zeros(1, 4, 8, 8), 0.5)
    with pytest.raises(ValueError, match="got images, expected latents"):
        contrast()(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="expected views by flip and shift"):
        ClipReward(scorer_of_tiny_vae(), "a", views=Views(crop=(0.5, 1.0)))
    with pytest.raises(ValueError, match="got latents, expected images: starter"):
        ClipReward(load_scorer("starter"), "a red star").of_latents(torch.zeros(1, 4, 8, 8), 0.5)


def test_another_autoencoder_is_refused_unless_it_is_forced() -> None:
    pipe = tiny_pipeline()
    scorer = LatentScorer(latent_clip(tiny_vae()))
    reward: Reward = WeightedSum(((1.0, ClipReward(scorer, "a red star")),))
    match = "latents of another autoencoder.*any_autoencoder"
    with pytest.raises(ValueError, match=match), guide(pipe, reward):
        pass
    scorer.any_autoencoder = True
    with guide(pipe, reward) as trace:
        call(pipe)
    assert trace.steps


def test_a_tower_that_is_not_finite_is_named() -> None:
    scorer = LatentScorer(copy.deepcopy(scorer_of_tiny_vae()._latent))
    pipe = tiny_pipeline()
    plain = call(pipe)
    with torch.no_grad():
        next(scorer._latent.tower.parameters()).fill_(torch.nan)
    with (
        pytest.warns(RuntimeWarning, match="latent CLIP"),
        guide(pipe, ClipReward(scorer, "a red star")) as trace,
    ):
        found = call(pipe)
    assert {skipped.component for skipped in trace.skipped} == {"latent CLIP"}
    assert torch.equal(found, plain)
