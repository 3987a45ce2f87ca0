"""Recurrence in real pipelines: what is called, refused and left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_pipelines import ProjectionReward, draw, tiny_pipeline, tiny_scheduler
from tiny_pixels import likelihood, pixel_pipeline
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.attach.recurrence import renoised
from clipguide.guidance.parameterization import NoiseLevel


@contextmanager
def calls(pipe: Any) -> Iterator[list[float]]:
    """Filled with the timestep of every denoiser call."""
    seen: list[float] = []
    handle = pipe.unet.register_forward_pre_hook(lambda m, args: seen.append(float(args[1])))
    yield seen
    handle.remove()


@pytest.mark.parametrize("mode", ["x0", "xt", "tilt"])
@pytest.mark.parametrize("cls", [DDIMScheduler, EulerDiscreteScheduler])
def test_each_step_is_taken_again(cls: Any, mode: Any) -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(cls))
    before = draw(pipe, 1)
    guiding = guide(pipe, ProjectionReward(), 0.3, mode=mode, recurrence=2, every=2)
    with guiding as trace, calls(pipe) as seen:
        image = draw(pipe, 1)
    plain = [float(t) for t in pipe.scheduler.timesteps]
    repeats = [3, 1, 3, 1]  # every=2
    assert seen == [t for t, count in zip(plain, repeats, strict=True) for _ in range(count)]
    assert [step.timestep for step in trace.steps] == [t for t in plain[::2] for _ in range(3)]
    assert type(pipe.scheduler.timesteps) is Tensor
    assert image.isfinite().all()
    assert torch.equal(draw(pipe, 1), before)
    with guide(pipe, ProjectionReward(), 0.3, mode=mode, recurrence=2, every=2):
        assert torch.equal(draw(pipe, 1), image)  # the same seed, the same image


def test_image_to_image_recurs_in_its_part_of_the_schedule() -> None:
    pipe = tiny_pipeline("img2img")
    guiding = guide(pipe, ProjectionReward(), 0.3, recurrence=1, recurrence_window=(0.0, 0.9))
    with guiding, calls(pipe) as seen:
        draw(pipe, 1, image=torch.rand(1, 3, 16, 16), strength=0.5)
    assert len(seen) == 4  # two of four steps, each twice


@given(st.floats(0.05, 1), st.floats(0, 0.95), st.integers(0, 99))
@settings(max_examples=20)
def test_renoising_brings_the_variance_of_its_level(high: float, share: float, seed: int) -> None:
    """Unit-variance data at the lower level has the higher level's variance afterwards."""
    now, then = NoiseLevel((1 - high**2) ** 0.5 + 1e-3, high), NoiseLevel(1.0, share * high)
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 20000, generator=generator, dtype=torch.float64)
    again = renoised((data + then.sigma * noise)[None], now, then, [generator])
    assert float(again.var()) == pytest.approx(now.radius**2, rel=0.05)
    slope = float((again * data).mean())
    assert slope == pytest.approx(now.alpha, abs=0.05)


@pytest.mark.parametrize("cls", [DPMSolverMultistepScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("change", [{"recurrence": 1}, {"target": "next"}, {"scale": "increase"}])
def test_schedulers_that_remember_are_refused(cls: Any, change: Any) -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(cls))
    with (
        pytest.raises(ValueError, match=f"got {cls.__name__} with.*expected a single-step"),
        guide(pipe, ProjectionReward(), 0.1, **change),
    ):
        pass


def test_what_cannot_be_repeated_is_refused() -> None:
    pipe = tiny_pipeline("inpaint")
    with (
        pytest.raises(ValueError, match=r"counts its steps.*mask_image"),
        guide(pipe, ProjectionReward(), 0.1, recurrence=1),
    ):
        pass
    pipe = tiny_pipeline()
    with (
        pytest.raises(ValueError, match=r"search.*recurrence=1"),
        guide(pipe, ProjectionReward(), 0.1, recurrence=1),
        observe(pipe),
    ):
        pass


def test_a_loop_that_does_not_listen_is_an_error() -> None:
    pipe: Any = pixel_pipeline("ddim")
    pipe.scheduler.set_timesteps(3)

    def own_loop() -> None:
        x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
        for t in pipe.scheduler.timesteps.tolist():
            x = pipe.scheduler.step(x, t, x).prev_sample

    with (
        pytest.raises(RuntimeError, match="did not take the step again"),
        guide(pipe, likelihood, 0.1, recurrence=1, decoder=lambda x0: x0),
    ):
        own_loop()
