"""Search by pruning: survivors go on as if never stopped, the best previews are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
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
from tiny_clip import tiny_clip_dir
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
from clipguide.clip.loading import load_scorer
from clipguide.guidance.config import GuidanceConfig
from clipguide.rewards import ClipReward, ContrastReward, Reward
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
    started = method.plan(3, STEPS, noise_aware=False).started
    assert sum(seen) == (started + len(found)) * STEPS // 2 + started + len(found)


def test_pruning_keeps_the_best_previews():
    """Those whose x0 after `at` of the calls scores best, by the scheduler's own x0."""
    pipe, method = pipeline(DDIMScheduler), Prune(at=0.5, keep=0.5)
    plan = method.plan(3, STEPS, noise_aware=False)
    count, finished = plan.started, plan.finished
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
    method = Prune(0.25, 0.25)
    plan = method.plan(budget, 20, noise_aware=False)
    assert (plan.started, plan.finished) == (started, finished)
    assert plan.calls == ((5,) if finished < started else ())
    assert started * 5 + finished * 15 <= budget * 20
    assert (started + 1) * 5 + max(1, (started + 1) // 4) * 15 > budget * 20


@given(st.integers(1, 40), st.integers(1, 60), st.floats(0.05, 0.95), st.floats(0.05, 1))
def test_no_search_draws_from_more_seeds_than_it_says(
    budget: int, total: int, at: float, keep: float
):
    method = Prune(at, keep)
    for search_method in (method, Prune(), Prune((0.3 * at, at), (1.0, keep))):
        for aware in (False, True):
            plan = search_method.plan(budget, total, noise_aware=aware)
            assert plan.started <= seeds_of(search_method, budget)
    assert seeds_of("fk", budget) == budget


@given(st.integers(1, 24), st.integers(1, 30), st.lists(st.integers(1, 9), max_size=3, unique=True))
def test_a_plan_spends_the_budget_and_no_more(budget: int, total: int, tenths: list[int]):
    """Calls counted one by one; after a single look nothing left would finish another."""
    at = [tenth / 10 for tenth in sorted(tenths)]
    for method in [Prune(), Prune(at)] if at else [Prune()]:
        for aware in (False, True):
            plan = method.plan(budget, total, noise_aware=aware)
            alive = [plan.counts[sum(step >= c for c in plan.calls)] for step in range(total)]
            left = budget * total - sum(alive)
            assert left >= 0
            if plan.calls and len(method.looks(noise_aware=aware)[0]) == 1:
                assert left < total - plan.calls[0]
            assert [*plan.counts] == sorted(set(plan.counts), reverse=True)
            assert plan.started >= budget


class Aware(Reward):
    """The projection, as a scorer trained on previews would say it."""

    noise_aware = True  # type: ignore[assignment]

    def __call__(self, images: torch.Tensor, *, generators: Any = None) -> torch.Tensor:
        return REWARD(images)


def test_the_default_depends_on_the_scorer():
    """The same search by both: a scorer of finished pictures alone looks once, in the middle."""
    pipe, steps = pipeline(), 20
    assert Prune().plan(8, steps, noise_aware=False).calls == (10,)
    assert Prune().plan(8, steps, noise_aware=True).calls == (4, 6, 10)
    for reward, same in ((REWARD, Prune(0.5, 0.5)), (Aware(), Prune((0.2, 0.3, 0.5)))):
        found, expected = (
            search(pipe, PROMPT, reward, method, 4, 0, batch_size=8, num_inference_steps=steps)
            for method in ("prune", same)
        )
        assert [(c.seed, c.score) for c in found] == [(c.seed, c.score) for c in expected]


def test_who_says_that_it_is_noise_aware(tmp_path: Path):
    starter, latent, judge = map(load_scorer, ("starter", "starter:latent", "starter:judge"))
    assert starter.noise_aware
    assert latent.noise_aware
    assert not judge.noise_aware
    assert not load_scorer(tiny_clip_dir(tmp_path)).noise_aware
    guide_reward, contrast = (
        ClipReward(starter, "a red star"),
        ContrastReward(starter, "a red star"),
    )
    assert guide_reward.noise_aware
    assert (0.5 * guide_reward - contrast).noise_aware
    assert not (guide_reward + REWARD).noise_aware


def test_several_looks_keep_the_best_of_each():
    """Slow: every sample is run whole, and its previews ranked after each look."""
    pipe, method = pipeline(DDIMScheduler), Prune((0.25, 0.5), (0.6, 0.3))
    plan = method.plan(4, STEPS, noise_aware=False)
    assert plan.calls == (1, 2)
    previews: list[list[float]] = []
    for seed in range(plan.started):
        latents = make_latents(pipe, make_generators([seed]))
        pipe.scheduler.set_timesteps(STEPS)
        previews.append([])
        with torch.no_grad():
            for t in pipe.scheduler.timesteps[:2]:
                out = pipe.scheduler.step(denoised(pipe, latents, t), t, latents)
                latents = out.prev_sample
                previews[-1].append(float(REWARD(decoded(pipe, out.pred_original_sample))))
    alive = [*range(plan.started)]
    for look, count in enumerate(plan.counts[1:]):
        alive = sorted(alive, key=lambda i: -previews[i][look])[:count]
    assert {c.seed for c in run(pipe, method, budget=4)} == set(alive)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.5}, "got keep=0.5 without at"),
        ({"at": (0.5, 0.2)}, "got at=.*ascending"),
        ({"at": (0.2, 0.2)}, "got at=.*ascending"),
        ({"at": ()}, "got at=.*ascending"),
        ({"at": (0.2, 0.5), "keep": (0.3, 0.6)}, "got keep=.*descending"),
        ({"at": (0.2, 0.5), "keep": 0.3}, "got 2 looks and 1 shares kept"),
        ({"at": float("nan")}, "got at=nan"),
        ({"at": 0.5, "keep": 0.0}, "got keep=0.0"),
    ],
)
def test_shares_out_of_order_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Prune(**settings)
