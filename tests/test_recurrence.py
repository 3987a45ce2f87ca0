"""Time travel and tilted latents in real pipelines: what is called, refused and left behind."""

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
from tiny_pipelines import ProjectionReward, generators, tiny_pipeline, tiny_scheduler
from tiny_pixels import likelihood, pixel_pipeline
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.observe import observe
from clipguide.attach.recurrence import renoised
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.tilt import relaxed, shift


def draw(pipe: Any, *seeds: int, steps: int = 4, **extra: Any) -> Tensor:
    return pipe(
        ["a fox"] * len(seeds),
        num_inference_steps=steps,
        generator=generators(*seeds),
        output_type="latent",
        **extra,
    ).images


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


# ---------------------------------------------------------------------------------------- mode tilt


@pytest.mark.parametrize(
    "cls",
    [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, DPMSolverMultistepScheduler],
)
def test_tilt_raises_the_reward_and_leaves_no_shift_behind(cls: Any) -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(cls))
    reward = ProjectionReward()
    before = draw(pipe, 1, 2)
    with guide(pipe, reward, 0.0, mode="tilt") as plain:
        assert torch.equal(draw(pipe, 1, 2), before)
    with guide(pipe, reward, 0.5, mode="tilt") as trace:
        draw(pipe, 1, 2)
    assert len(trace.steps) == len(plain.steps)
    assert (trace.steps[-1].score > plain.steps[-1].score).all()
    assert torch.equal(draw(pipe, 1, 2), before)


def test_tilt_is_the_denoiser_at_the_shifted_latent() -> None:
    """Two steps by hand: the slope of the first shifts the second's latent, and nothing else."""
    pipe: Any = pixel_pipeline("ddim")
    scheduler, unet, seen = pipe.scheduler, pipe.unet, torch.Generator()
    with guide(
        pipe, likelihood, 0.4, mode="tilt", normalize="raw", damping=1.5, decoder=lambda x0: x0
    ):
        image = pipe(2, seen)
    scheduler.set_timesteps(2)
    first, second = scheduler.timesteps
    levels = [
        NoiseLevel(float(scheduler.alphas_cumprod[t] ** 0.5), float((1 - bar) ** 0.5))
        for t in (first, second)
        for bar in [scheduler.alphas_cumprod[t]]
    ]
    with torch.no_grad():
        x = pipe.prepare_latents(None)
        out = unet(x, first)
        x0 = ((x - levels[0].sigma * out) / levels[0].alpha).requires_grad_()
        with torch.enable_grad():
            (h,) = torch.autograd.grad(likelihood(x0).sum(), x0)
        slope = 0.4 * h / (1 + levels[0].variance / 1.5**2)
        x = scheduler.step(out, first, x).prev_sample
        shifted = x + levels[1].sigma ** 2 / levels[1].alpha * slope
        x0 = (shifted - levels[1].sigma * unet(shifted, second)) / levels[1].alpha
    torch.testing.assert_close(image, x0, rtol=1e-9, atol=1e-9)  # the last step returns its x0


def test_the_slope_relaxes_towards_what_is_wanted() -> None:
    level, wanted = NoiseLevel(0.6, 0.8), torch.ones(1, 2)
    assert torch.equal(relaxed(None, wanted, level, None), wanted)
    assert torch.allclose(relaxed(None, wanted, level, 0.8), wanted / 2)
    assert torch.allclose(relaxed(3 * wanted, wanted, level, 0.8), 2 * wanted)
    assert torch.allclose(shift(wanted, level), 0.64 / 0.6 * wanted)
