"""Search by pruning: survivors go on as if never stopped, the best previews are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given
from hypothesis import strategies as st
from tiny_search import (
    GUIDED,
    PROMPT,
    REWARD,
    STEPS,
    decoded,
    denoised,
    make_latents,
    pipeline,
    plain,
    run,
)

from clipguide.attach.guide import guide
from clipguide.guidance.config import GuidanceConfig
from clipguide.search import Prune, search, seeds_of
from clipguide.seeds import make_generators

DETERMINISTIC = [
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
]
STOCHASTIC = [DDPMScheduler, EulerAncestralDiscreteScheduler]


@pytest.mark.parametrize("cls", DETERMINISTIC + STOCHASTIC)
def test_pruning_finishes_its_survivors_as_if_never_stopped(cls: type[Any]):
    """Multistep histories, second-order stages and the noise stream, replayed to the bit."""
    pipe = pipeline(cls)
    found = run(pipe, Prune(at=0.5), budget=3, seed=3, batch_size=1)
    assert found
    for candidate in found:
        assert candidate.score == float(REWARD(plain(pipe, candidate.seed)))


@pytest.mark.parametrize("config", GUIDED[1:])
def test_pruning_guided_trajectories(config: GuidanceConfig):
    pipe = pipeline(DPMSolverMultistepScheduler)
    found = run(pipe, "prune", budget=2, seed=3, batch_size=1, guidance=config)
    for candidate in found:
        with guide(pipe, REWARD, config=config):
            expected = plain(pipe, candidate.seed)
        assert candidate.score == float(REWARD(expected))
        assert candidate.score > float(REWARD(plain(pipe, candidate.seed)))


@pytest.mark.parametrize("config", GUIDED[1:])
def test_what_was_guided_before_is_not_guided_again(config: GuidanceConfig):
    """Rewards taken: one per guided step, one per preview, one per finished image."""
    seen: list[int] = []

    def counting(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return REWARD(images)

    pipe, method = pipeline(), Prune(at=0.5, keep=0.5)
    full = dataclasses.replace(config, window=(0.0, 1.0))
    found = search(pipe, PROMPT, counting, method, 3, guidance=full, num_inference_steps=STEPS)
    _, started, _ = method.plan(3, STEPS)
    assert sum(seen) == (started + len(found)) * STEPS // 2 + started + len(found)


def test_pruning_keeps_the_best_previews():
    """Those whose x0 after `at` of the calls scores best, by the scheduler's own x0."""
    pipe, method = pipeline(DDIMScheduler), Prune(at=0.5, keep=0.5)
    _, count, finished = method.plan(3, STEPS)
    previews: list[float] = []
    for seed in range(count):
        latents = make_latents(pipe, make_generators([seed]))
        pipe.scheduler.set_timesteps(STEPS)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps[: STEPS // 2]:
                out = pipe.scheduler.step(denoised(pipe, latents, t), t, latents)
                latents = out.prev_sample
            previews.append(float(REWARD(decoded(pipe, out.pred_original_sample))))
    best = sorted(range(count), key=lambda i: -previews[i])[:finished]
    assert {c.seed for c in run(pipe, method, budget=3)} == set(best)


def test_pruning_image_to_image():
    pipe = pipeline(DPMSolverMultistepScheduler, "img2img")
    source = torch.rand(1, 3, 16, 16, generator=make_generators([1])[0])
    inputs = {"image": source, "strength": 0.7}
    found = run(pipe, Prune(at=0.5), budget=2, batch_size=1, **inputs)
    for candidate in found:
        assert candidate.score == float(REWARD(plain(pipe, candidate.seed, **inputs)))


@pytest.mark.parametrize(("budget", "started", "finished"), [(16, 37, 9), (1, 1, 1), (2, 5, 1)])
def test_pruning_arithmetic(budget: int, started: int, finished: int):
    """T = 20, 5 calls before the preview: N·5 + K·15 <= budget·20, and no larger N fits."""
    assert Prune().plan(budget, 20) == (5, started, finished)
    assert started * 5 + finished * 15 <= budget * 20
    assert (started + 1) * 5 + max(1, (started + 1) // 4) * 15 > budget * 20


@given(st.integers(1, 40), st.integers(1, 60), st.floats(0.05, 0.95), st.floats(0.05, 1))
def test_no_search_draws_from_more_seeds_than_it_says(
    budget: int, total: int, at: float, keep: float
):
    method = Prune(at, keep)
    assert method.plan(budget, total)[1] <= seeds_of(method, budget)
    assert seeds_of("fk", budget) == budget
