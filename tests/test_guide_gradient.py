"""Mode xt against a gradient written out by hand, and both modes against the published updates."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from tiny_pipelines import (
    ProjectionReward,
    generators,
    tiny_pipeline,
    tiny_scheduler,
    tiny_scorer,
)
from torch import Tensor

from clipguide.attach import update
from clipguide.attach.guide import guide
from clipguide.attach.schedulers import SCHEDULERS, step_index
from clipguide.guidance.gradient import evaluate, pulled_back
from clipguide.guidance.parameterization import parameterization
from clipguide.rewards import ClipReward

GUIDANCE_SCALE = 3.0
STRENGTH = 1e4  # so large that rounding of the unguided output is lost against the displacement


class Recording:
    """The first call of the scheduler's own step: what it was given."""

    def __init__(self, scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[Tensor, Any, Tensor]] = []
        own = type(scheduler).step

        @functools.wraps(own)
        def step(this: Any, *args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(own).bind(this, *args, **kwargs).arguments
            self.calls.append((given["model_output"], given["timestep"], given["sample"]))
            return own(this, *args, **kwargs)

        monkeypatch.setattr(type(scheduler), "step", step)


@pytest.fixture(autouse=True)
def pale() -> Iterator[None]:
    """Images well inside [0, 1], where clamping changes nothing; the modules restored after."""
    pipe = tiny_pipeline()
    last = pipe.vae.decoder.conv_out
    saved = [p.detach().clone() for p in last.parameters()]
    for parameter in last.parameters():
        parameter.data.mul_(0.1)
    yield
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.float()
    for parameter, before in zip(last.parameters(), saved, strict=True):
        parameter.data.copy_(before)


def by_hand(pipe: Any, reward: Any, x: Tensor, t: Any, mode: str) -> tuple[Tensor, Tensor]:
    """Model output and ∂reward/∂x (or ∂x0), with plain autograd through the real modules."""
    for module in (pipe.unet, pipe.vae):
        module.requires_grad_(False)  # other convolution kernels, another last bit
    embeds = torch.cat(pipe.encode_prompt("a fox", "cpu", 1, True, "a cat")[::-1])
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        scaled = pipe.scheduler.scale_model_input(torch.cat([x, x]), t)
        uncond, cond = pipe.unet(scaled, t, encoder_hidden_states=embeds).sample.chunk(2)
        out = uncond + GUIDANCE_SCALE * (cond - uncond)
        x0 = formula(pipe.scheduler, x, out, t)
        source = x if mode == "xt" else x0
        image = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5
        assert image.min() > 0, "the clamp would matter"
        assert image.max() < 1, "the clamp would matter"
        (gradient,) = torch.autograd.grad(reward(image).sum(), source)
    for module in (pipe.unet, pipe.vae):
        module.requires_grad_(True)
    return out.detach(), gradient


def formula(scheduler: Any, x: Tensor, out: Tensor, t: Any) -> Tensor:
    """x0 of an epsilon or v model, from the papers."""
    if isinstance(scheduler, EulerDiscreteScheduler):
        return x - scheduler.sigmas[0] * out
    a = scheduler.alphas_cumprod[t].to(x.dtype)
    if scheduler.config.prediction_type == "epsilon":
        return (x - (1 - a).sqrt() * out) / a.sqrt()
    return a.sqrt() * x - (1 - a).sqrt() * out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("mode", ["x0", "xt"])
@pytest.mark.parametrize(
    "scheduler",
    [
        tiny_scheduler(DDIMScheduler),
        tiny_scheduler(DDIMScheduler, prediction_type="v_prediction"),
        tiny_scheduler(EulerDiscreteScheduler),
    ],
    ids=["DDIM", "DDIM-v", "Euler"],
)
def test_the_gradient_is_the_one_written_by_hand(
    scheduler: Any,
    mode: Any,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    pipe = tiny_pipeline(scheduler=scheduler)
    reward: Any = ClipReward(tiny_scorer(), "a fox", negative="a dog")
    if dtype == torch.float64:
        reward = ProjectionReward().double()
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.to(dtype)
    recording, taken = Recording(scheduler, monkeypatch), []
    for name, own in (("evaluate", evaluate), ("pulled_back", pulled_back)):

        def keeping(*args: Any, own: Any = own, **kwargs: Any) -> Any:
            taken.append(own(*args, **kwargs))
            return taken[-1]

        monkeypatch.setattr(update, name, keeping)
    with guide(pipe, reward, STRENGTH, mode=mode, normalize="raw") as trace:
        pipe(
            "a fox",
            negative_prompt="a cat",
            guidance_scale=GUIDANCE_SCALE,
            num_inference_steps=3,
            generator=generators(0),
            output_type="latent",
        )
    edited, t, x = recording.calls[0]
    scheduler.set_timesteps(3)
    rule = SCHEDULERS[type(scheduler).__name__]
    level = rule.level(scheduler, t, step_index(scheduler, t))
    form = parameterization(rule.prediction_of(scheduler), level)
    out, expected = by_hand(pipe, reward, x, t, mode)
    gradient = taken[mode == "xt"].gradient  # at x0 first, then pulled back
    error = float((gradient - expected).norm() / expected.norm())
    record_property("relative_error", error)
    # x0 rounds differently by hand, by 1e-7, which the curvature of random networks multiplies
    assert error <= (2e-6 if expected.dtype == torch.float32 else 1e-12)
    factor = level.variance if mode == "x0" else level.sigma**2 / level.alpha
    gradient = (edited.double() - out.double()) * form.b / (STRENGTH * factor)
    assert float((gradient - expected).norm() / expected.norm()) <= 1e-5  # as the scheduler got it
    assert trace.steps[0].grad_norm.item() == pytest.approx(float(expected.norm()), rel=1e-4)


def test_mode_xt_agrees_with_finite_differences_in_float64() -> None:
    """The whole chain, latents to reward, differentiated by moving the latents."""
    pipe = tiny_pipeline()
    reward = ProjectionReward().double()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    direction = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).double()

    def first_step(start: Tensor, strength: float) -> tuple[float, Tensor]:
        """Score and edited latents of one guided step, exactly as a user runs it."""
        with guide(pipe, reward, strength, mode="xt", normalize="raw") as trace:
            after = pipe("a fox", latents=start, num_inference_steps=1, output_type="latent").images
        return trace.steps[0].score.item(), after

    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double()
    unguided, guided = first_step(latents, 0.0)[1], first_step(latents, 1.0)[1]
    t = int(pipe.scheduler.timesteps[0])
    a = pipe.scheduler.alphas_cumprod[t].double()
    then = pipe.scheduler.final_alpha_cumprod.double()
    # DDIM: x' = √then·x0 + √(1-then)·eps, and eps moves by -(√a/√(1-a))·delta
    per_delta = then.sqrt() - (1 - then).sqrt() * (a / (1 - a)).sqrt()
    gradient = (guided - unguided) / per_delta / ((1 - a) / a.sqrt())
    step = 1e-2
    up, down = (first_step(latents + s * step * direction, 0.0)[0] for s in (1, -1))
    # scores are recorded in float32: the difference quotient is good to about 1e-3
    assert (up - down) / (2 * step) == pytest.approx(float((gradient * direction).sum()), rel=5e-3)
