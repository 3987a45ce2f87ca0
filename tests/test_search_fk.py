"""FK steering against the closed form: a Gaussian denoiser, a linear reward, a tilted posterior."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    ModelMixin,
    SASolverScheduler,
)
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import BaseOutput
from tiny_pipelines import ProjectionReward, tiny_pipeline, tiny_scheduler

from clipguide.attach.observe import observe
from clipguide.rewards.base import as_reward
from clipguide.search import Candidate, FeynmanKac, search
from clipguide.search.call import Call
from clipguide.search.fk import Particles
from clipguide.search.path import Path, StepRecord
from clipguide.search.rollout import Rollout
from clipguide.search.stages import StageRewards
from clipguide.seeds import make_generators

SIZE, MEAN, STD, STEPS = 2, 0.1, 0.25, 13
PIXELS = 3 * SIZE * SIZE


class GaussianDenoiser(ModelMixin, ConfigMixin):
    """The exact epsilon for data N(MEAN, STD²), independent pixels."""

    @register_to_config
    def __init__(self, sample_size: int = SIZE, in_channels: int = 3) -> None:
        super().__init__()
        self.alphas_cumprod = torch.nn.Parameter(gaussian_scheduler().alphas_cumprod)

    def forward(self, x: torch.Tensor, t: Any) -> BaseOutput:
        return BaseOutput(sample=epsilon(x, self.alphas_cumprod[int(t)]))


def epsilon(x: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
    noise = 1 - alpha_bar
    return noise.sqrt() * (x - alpha_bar.sqrt() * MEAN) / (alpha_bar * STD**2 + noise)


def gaussian_scheduler() -> DDIMScheduler:
    return DDIMScheduler(clip_sample=False)


def sampler_moments() -> tuple[float, float]:
    """Mean and variance of a pixel after STEPS steps of DDIM with eta = 1 (arXiv 2010.02502, Eq.
    12 and 16): every step is linear in x and adds Gaussian noise, so x stays Gaussian."""
    scheduler = gaussian_scheduler()
    scheduler.set_timesteps(STEPS)
    mean, variance = 0.0, 1.0
    times = [int(t) for t in scheduler.timesteps]
    for t, after in zip(times, [*times[1:], None], strict=True):
        a = scheduler.alphas_cumprod[t].double()
        b = torch.tensor(1.0) if after is None else scheduler.alphas_cumprod[after].double()
        sigma = ((1 - b) / (1 - a) * (1 - a / b)).sqrt()

        def step(x: torch.Tensor, a: Any = a, b: Any = b, sigma: Any = sigma) -> torch.Tensor:
            eps = epsilon(x, a)
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            return b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * eps

        offset = float(step(torch.tensor(0.0).double()))
        slope = float(step(torch.tensor(1.0).double())) - offset
        mean, variance = slope * mean + offset, slope**2 * variance + float(sigma) ** 2
    return mean, variance


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean(dim=(1, 2, 3))  # x / 2 + 1/2, never clamped at this STD


def weighted(found: list[Candidate]) -> tuple[float, float]:
    """Mean and variance of the score under the particles' weights."""
    share = torch.tensor([c.log_weight for c in found]).double().exp()
    score = torch.tensor([c.score for c in found]).double()
    mean = float((share * score).sum())
    return mean, float((share * (score - mean) ** 2).sum())


def run_gaussian(method: FeynmanKac, particles: int, seed: int = 0) -> list[Candidate]:
    pipe = DDIMPipeline(GaussianDenoiser(), gaussian_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return search(
        pipe,
        None,
        brightness,
        method,
        particles,
        seed,
        batch_size=particles,
        decoder=lambda x: x / 2 + 0.5,
        num_inference_steps=STEPS,
        eta=1.0,
    )


@pytest.mark.parametrize(
    ("potential", "ess"),
    [("difference", 0.0), ("difference", 0.7), ("difference", 1.0), ("max", 1.0), ("sum", 1.0)],
)
def test_weights_give_the_tilted_posterior(potential: str, ess: float):
    """score ~ N(m, V) before, so N(m + temperature·V, V) weighted by exp(temperature·score)."""
    pixel_mean, pixel_variance = sampler_moments()
    mean, variance = pixel_mean / 2 + 0.5, pixel_variance / 4 / PIXELS
    # in standard deviations; max and sum over-weigh on the way, so less. The last preview, after
    # 12 of 13 calls, holds half of the variance: resampling there moves half of the shift
    shift = {"difference": 1.2, "max": 0.4, "sum": 0.4}[potential]
    temperature = shift / math.sqrt(variance)
    method = FeynmanKac(temperature, potential, interval=0.3, ess=ess)
    particles = 2000
    got_mean, got_variance = weighted(run_gaussian(method, particles))
    # importance sampling: the variance of the mean is V·e^(shift²)·(1 + shift²)/N (all methods
    # stay below twice that); the tolerance is four standard deviations
    error = math.sqrt(2 * math.exp(shift**2) * (1 + shift**2) / particles)
    assert abs(got_mean - (mean + temperature * variance)) / math.sqrt(variance) < 4 * error
    assert abs(got_variance / variance - 1) < 4 * math.sqrt(2) * error


def test_without_resampling_weights_are_those_of_the_finished_images():
    """Every potential's product ends at exp(temperature·score), to rounding."""
    for potential in ("difference", "max", "sum"):
        found = run_gaussian(FeynmanKac(40.0, potential, ess=0.0), 16)
        free = [c.log_weight - 40.0 * c.score for c in found]
        assert max(free) - min(free) < 1e-4
        assert sum(math.exp(c.log_weight) for c in found) == pytest.approx(1)


def test_log_weights_are_kept_until_a_resampling():
    """Two looks that each leave the effective size high add up; then one look resamples."""
    settings = FeynmanKac(temperature=1.0, ess=0.5)
    particles = Particles([Path(s) for s in range(4)], settings)
    chance = torch.Generator().manual_seed(0)
    particles.weigh(particles.paths, [0.0, 0.0, 0.0, 0.5])
    particles.resample(chance)
    particles.weigh(particles.paths, [0.0, 0.1, 0.0, 1.0])
    particles.resample(chance)
    kept = particles.final_weights([0.0, 0.1, 0.0, 1.0])
    assert kept == pytest.approx(torch.tensor([0.0, 0.1, 0.0, 1.0]).log_softmax(0).tolist())
    marks = [torch.full((1,), float(s)) for s in range(4)]
    paths = [Path(s, (StepRecord(mark, mark, mark),)) for s, mark in enumerate(marks)]
    particles.weigh(paths, [0.0, 0.1, 0.0, 9.0])  # particle 3 has nearly everything
    particles.resample(chance)
    assert [path.seed for path in particles.paths] == [0, 1, 2, 3]
    assert [float(path.steps[0].sample) for path in particles.paths] == [3, 3, 3, 3]
    assert particles.final_weights([9.0] * 4) == pytest.approx([math.log(0.25)] * 4)


def test_steering_raises_the_reward_and_repeats():
    plain = search(gaussian_pipe(), None, brightness, "best_of", 64, **GAUSSIAN)
    method = FeynmanKac(temperature=200.0, interval=0.1, ess=1.0)
    steered = run_gaussian(method, 64)
    assert mean_score(steered) > mean_score(plain) + 0.01
    assert [c.score for c in steered] == [c.score for c in run_gaussian(method, 64)]
    assert [c.score for c in steered] != [c.score for c in run_gaussian(method, 64, seed=64)]


GAUSSIAN: dict[str, Any] = {"batch_size": 64, "num_inference_steps": STEPS, "eta": 1.0}


def gaussian_pipe() -> DDIMPipeline:
    pipe = DDIMPipeline(GaussianDenoiser(), gaussian_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def mean_score(found: list[Candidate]) -> float:
    return sum(c.score for c in found) / len(found)


# ------------------------------------------------------------------------- copies, exactly

STOCHASTIC = [
    (DDPMScheduler, {}),
    (EulerAncestralDiscreteScheduler, {}),
    (KDPM2AncestralDiscreteScheduler, {}),
    (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    (SASolverScheduler, {}),
]


def spliced(pipe: Any, first: int, second: int, at: int, steps: int) -> torch.Tensor:
    """A stock call that follows seed `first` until step `at`, whose noise and all later noise is
    what a call with seed `second` draws there: the states of that call are recorded before."""
    states: list[torch.Tensor] = []
    other = make_generators([second])[0]
    original = pipe.scheduler.step

    @functools.wraps(original)  # pipelines look for `generator` in its signature
    def remember(*args: Any, **kwargs: Any) -> Any:
        states.append(other.get_state())
        return original(*args, **kwargs)

    settings = {"num_inference_steps": steps, "output_type": "pt"}
    pipe.scheduler.step = remember
    pipe("a b", generator=other, **settings)
    generator, calls = make_generators([first])[0], [0]

    @functools.wraps(original)
    def switch(*args: Any, **kwargs: Any) -> Any:
        if calls[0] == at:
            generator.set_state(states[at])
        calls[0] += 1
        return original(*args, **kwargs)

    pipe.scheduler.step = switch
    image = pipe("a b", generator=generator, **settings).images
    del pipe.scheduler.step
    return image


@pytest.mark.parametrize(("cls", "config"), STOCHASTIC)
def test_a_copy_goes_on_with_its_own_noise(cls: type[Any], config: dict[str, Any]):
    """History of multistep solvers and stages of second-order ones included, to the bit."""
    pipe = tiny_pipeline("text", tiny_scheduler(cls, **config))
    reward, steps, calls = as_reward(ProjectionReward()), 5, 3
    with observe(pipe) as observer:
        rollout = Rollout(
            Call(pipe, "a b", {"num_inference_steps": steps}), StageRewards(reward), 1, observer
        )
        paths, _ = rollout.advance([Path(11), Path(22)], 2)
        paths, _ = rollout.advance(paths, calls)
        copy = paths[1].following(paths[0])
        ours = rollout.finish([copy, paths[0]]).images
    assert torch.equal(ours[:1], spliced(pipe, 11, 22, calls - 1, steps))
    settings = {"num_inference_steps": steps, "output_type": "pt"}
    plain = pipe("a b", generator=make_generators([11])[0], **settings).images
    assert torch.equal(ours[1:], plain)
    assert not torch.equal(ours[0], ours[1])


def test_a_copy_blends_the_known_region_with_the_noise_it_began_with() -> None:
    """Inpainting draws it before the first step. Without further noise a copy is a copy."""
    pipe = tiny_pipeline("inpaint")
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    arguments = {"num_inference_steps": 4, "image": torch.rand(1, 3, 16, 16), "mask_image": mask}
    with observe(pipe) as observer:
        rollout = Rollout(
            Call(pipe, "a b", arguments), StageRewards(as_reward(ProjectionReward())), 1, observer
        )
        paths, _ = rollout.advance([Path(11), Path(22)], 2)
        copy = paths[1].following(paths[0])
        ours = rollout.finish([copy, copy.following(copy), paths[0], paths[1]]).images
    assert torch.equal(ours[0], ours[2])
    assert torch.equal(ours[1], ours[2])
    assert not torch.equal(ours[0], ours[3])


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"potential": "mean"},
        {"interval": 0.0},
        {"interval": 1.5},
        {"ess": -0.1},
        {"ess": 2.0},
    ],
)
def test_settings_out_of_range(settings: dict[str, Any]):
    with pytest.raises(ValueError, match=f"got {next(iter(settings))}"):
        FeynmanKac(**settings)


def test_looks():
    assert FeynmanKac(interval=0.2).looks(50) == [10, 20, 30, 40]
    assert FeynmanKac(interval=1.0).looks(50) == []
    assert FeynmanKac(interval=0.2).looks(1) == []
