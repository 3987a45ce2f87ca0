"""Bit for bit: strength 0, after the context, the same seed; and a batch against its parts."""

from __future__ import annotations

import re
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import generators, tiny_pipeline, tiny_scheduler, tiny_scorer
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.schedulers import SCHEDULERS
from clipguide.rewards import ClipReward, Reward, Views

# verified like the others, and not for the calls of Stable Diffusion's pipelines: other arguments
# of `step`, no init_noise_sigma, timesteps of their own
ELSEWHERE = {
    *(name for name in SCHEDULERS if re.match("FlowMatch|CogVideoX|Cosine|DPMSolverSDE", name)),
    "CMStochasticIterativeScheduler",
    "DDPMWuerstchenScheduler",
    "IPNDMScheduler",
    "LTXEulerAncestralRFScheduler",
    "MiniMaxH3Scheduler",
    "RePaintScheduler",
    "SCMScheduler",
    "UnCLIPScheduler",
}
NAMES = [name for name in SCHEDULERS if name not in ELSEWHERE]
STEPS = 4
PROMPTS = ["a red fox", "snow"]


def pipeline(name: str) -> Any:
    return tiny_pipeline(scheduler=tiny_scheduler(getattr(diffusers, name)))


def reward(prompts: list[str] | str) -> Reward:
    views = Views(count=2, crop=(0.6, 1.0), noise=0.05)
    return ClipReward(tiny_scorer(), prompts, negative="a dog", views=views)


def draw(pipe: Any, prompts: list[str], *seeds: int) -> Tensor:
    return pipe(
        prompts,
        num_inference_steps=STEPS,
        generator=generators(*seeds),
        output_type="pt",
        eta=0.5,
        guidance_scale=4.0,
    ).images


EXACT = ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "UniPCMultistepScheduler"]
BOTH = [*((name, "x0") for name in NAMES), *((name, "xt") for name in EXACT)]


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_and_afterwards_are_unguided_to_the_bit(name: str) -> None:
    pipe = pipeline(name)
    scheduler_class = type(pipe.scheduler)
    before = draw(pipe, PROMPTS[:1], 1)
    modes: list[Any] = ["x0", "xt"]
    for mode in modes:
        with guide(pipe, reward("a fox"), 0.0, mode=mode) as trace:
            unguided = draw(pipe, PROMPTS[:1], 1)
        assert torch.equal(unguided, before)
        assert len(trace.steps) >= STEPS - 1
        with guide(pipe, reward("a fox"), 0.5, mode=mode):
            guided = draw(pipe, PROMPTS[:1], 1)
        assert not torch.allclose(guided, before, atol=1e-3)
    assert torch.equal(draw(pipe, PROMPTS[:1], 1), before)
    assert type(pipe.scheduler) is scheduler_class


@pytest.mark.parametrize(("name", "mode"), BOTH)
def test_a_guided_batch_repeats_and_equals_its_single_runs(
    name: str, mode: Any, record_property: Any
) -> None:
    pipe = pipeline(name)
    settings: dict[str, Any] = {"strength": 0.3, "mode": mode}
    with guide(pipe, reward(PROMPTS), **settings) as together:
        batch = draw(pipe, PROMPTS, 4, 5)
    with guide(pipe, reward(PROMPTS), **settings):
        assert torch.equal(draw(pipe, PROMPTS, 4, 5), batch)
    with guide(pipe, reward(PROMPTS[1]), **settings) as alone:
        single = draw(pipe, PROMPTS[1:], 5)
    record_property("largest_difference", float((batch[1] - single[0]).abs().max()))
    torch.testing.assert_close(batch[1], single[0], rtol=0, atol=1e-4)
    for a, b in zip(together.steps, alone.steps, strict=True):
        torch.testing.assert_close(a.score[1:], b.score, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["x0", "xt"])
def test_one_generator_counts_up_and_global_seed_is_repeatable(mode: Any) -> None:
    """Views of image i come from seed + i, so a generator and its list see the same views."""
    pipe = pipeline("DDIMScheduler")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = []
    for generator in (torch.Generator().manual_seed(7), generators(7, 8)):
        with guide(pipe, reward("a fox"), 0.5, mode=mode):
            call = pipe(
                PROMPTS,
                num_inference_steps=3,
                latents=latents.clone(),
                generator=generator,
                output_type="pt",
            )
        images.append(call.images)
    assert torch.equal(images[0], images[1])
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        with guide(pipe, reward("a fox"), 0.5, mode=mode):
            drawn.append(pipe("a fox", num_inference_steps=3, output_type="pt").images)
        noise_after = torch.randn(1)
    torch.manual_seed(3)
    pipe("a fox", num_inference_steps=3, output_type="pt")
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(noise_after, torch.randn(1))  # guidance drew nothing from the global one


def test_views_from_guides_own_generator() -> None:
    pipe = pipeline("DDIMScheduler")
    images = []
    for own in (1, 1, 2):
        with guide(pipe, reward("a fox"), 0.5, generator=generators(own)):
            images.append(draw(pipe, PROMPTS[:1], 0))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    with (
        pytest.raises(ValueError, match="got 2 generators for 1 images"),
        guide(pipe, reward("a fox"), 0.5, generator=generators(1, 2)),
    ):
        draw(pipe, PROMPTS[:1], 0)
