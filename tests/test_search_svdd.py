"""SVDD against its algorithm written slowly, noise search against plain calls."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, SASolverScheduler
from tiny_search import REWARD, STEPS, decoded, denoised, make_latents, pipeline, plain, run

from clipguide.search import NoiseSearch, SoftValueDecoding
from clipguide.seeds import make_generators


@torch.no_grad()
def slow_svdd(pipe: Any, seeds: list[int]) -> torch.Tensor:
    """One image by Algorithm 1 of arXiv 2408.08252 with alpha = 0; its reward."""
    generators = make_generators(seeds)
    latents = make_latents(pipe, generators)
    pipe.scheduler.set_timesteps(STEPS)
    schedulers = [copy.deepcopy(pipe.scheduler) for _ in seeds]  # one each: nothing is shared
    for t in pipe.scheduler.timesteps:
        out = denoised(pipe, latents, t)
        alpha_bar = pipe.scheduler.alphas_cumprod[t]
        x0 = (latents - (1 - alpha_bar).sqrt() * out) / alpha_bar.sqrt()
        best = int(REWARD(decoded(pipe, x0)).argmax())
        schedulers = [copy.deepcopy(schedulers[best]) for _ in seeds]
        x, out = latents[best : best + 1], out[best : best + 1]
        rows = [s.step(out, t, x, generator=g) for s, g in zip(schedulers, generators, strict=True)]
        latents = torch.cat([row.prev_sample for row in rows])
    return REWARD(decoded(pipe, latents)).max()


@pytest.mark.parametrize("cls", [DDPMScheduler, SASolverScheduler])
def test_svdd_is_its_algorithm_and_beats_plain_samples(cls: type[Any]):
    """SASolver remembers noise and model outputs of earlier steps: they move with the sample."""
    pipe = pipeline(cls)
    found = run(pipe, SoftValueDecoding(duplicates=3), budget=7, seed=5, batch_size=3)
    expected = [slow_svdd(pipe, [5, 6, 7]), slow_svdd(pipe, [8, 9, 10])]
    assert [c.score for c in found] == pytest.approx(sorted(map(float, expected))[::-1], abs=1e-5)
    samples = [c.score for c in run(pipe, budget=6, seed=5)]
    assert min(c.score for c in found) > sum(samples) / len(samples)


def test_svdd_draws_in_proportion_to_exp_value():
    method = SoftValueDecoding(duplicates=2, temperature=0.5)
    chance = make_generators([0, 1])
    values = torch.tensor([[0.0, 0.5], [1.0, 0.0]])
    picks = torch.stack([method.pick(values, chance) for _ in range(2000)]).double()
    share = torch.softmax(torch.tensor([0.0, 1.0]), 0)[1]  # second of the first group
    assert float(picks[:, 0].mean()) == pytest.approx(float(share), abs=5 * 0.5 / 2000**0.5)
    low = torch.softmax(torch.tensor([2.0, 0.0]), 0)[1]  # rows 2 and 3 are the second group
    assert float(picks[:, 1].mean() - 2) == pytest.approx(float(low), abs=5 * 0.5 / 2000**0.5)


@pytest.mark.parametrize("cls", [EulerDiscreteScheduler, DDIMScheduler])
def test_noise_search_is_plain_calls_around_the_best(cls: type[Any]):
    pipe, radius = pipeline(cls), 0.4
    found = run(pipe, NoiseSearch(neighbours=3, radius=radius), budget=6, seed=2)
    by_seed = {c.seed: c.score for c in found}
    pivot = max(range(2, 5), key=lambda seed: by_seed[seed])
    latents = {s: torch.randn(1, 4, 8, 8, generator=make_generators([s])[0]) for s in range(2, 8)}
    for seed in range(2, 5):
        assert by_seed[seed] == pytest.approx(float(REWARD(plain(pipe, seed))), abs=1e-4)
    for seed in range(5, 8):
        mixed = (1 - radius**2) ** 0.5 * latents[pivot] + radius * latents[seed]
        expected = float(REWARD(plain(pipe, 0, latents=mixed)))
        assert by_seed[seed] == pytest.approx(expected, abs=1e-4)
