"""Mode xt against a gradient written out by hand, and both modes against the published updates."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tiny_pipelines import (
    ProjectionReward,
    generators,
    tiny_pipeline,
    tiny_scheduler,
    tiny_scorer,
)
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.modes import plug_in, xt
from clipguide.attach.schedulers import SCHEDULERS, step_index
from clipguide.guidance.gradient import evaluate, pulled_back
from clipguide.guidance.parameterization import Parameterization
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


@functools.cache
def tiny_transformer() -> SD3Transformer2DModel:
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    ).eval()


def pipeline_of(scheduler: Any) -> Any:
    """Stable Diffusion, or for flow a Stable Diffusion 3 whose prompts are given as embeddings."""
    pipe = tiny_pipeline()
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return tiny_pipeline(scheduler=scheduler)
    absent = [f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    parts = {"transformer": tiny_transformer(), "vae": pipe.vae, "scheduler": scheduler}
    flow = StableDiffusion3Pipeline(**parts, **dict.fromkeys(absent))
    flow.set_progress_bar_config(disable=True)
    return flow


def embeddings(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = {"prompt_embeds": (1, 5, 16), "pooled_prompt_embeds": (1, 16)}
    names = [prefix + name for name in shapes for prefix in ("", "negative_")]
    return {
        name: torch.randn(shapes[name.removeprefix("negative_")], generator=generator).to(dtype)
        for name in names
    }


SIGMAS = [0.9, 0.6, 0.3]  # a flow at sigma = 1 has alpha = 0, where mode xt cannot begin


def call(pipe: Any, dtype: torch.dtype, **arguments: Any) -> Tensor:
    """Three steps with classifier-free guidance, to latents."""
    own: dict[str, Any]
    if hasattr(pipe, "transformer"):
        own = {"sigmas": SIGMAS, "height": 16, "width": 16, **embeddings(dtype)}
    else:
        own = {"prompt": "a fox", "negative_prompt": "a cat"}
    return pipe(
        **own,
        guidance_scale=GUIDANCE_SCALE,
        num_inference_steps=3,
        generator=generators(0),
        output_type="latent",
        **arguments,
    ).images


def denoiser(pipe: Any) -> Any:
    return pipe.transformer if hasattr(pipe, "transformer") else pipe.unet


def halves(pipe: Any, x: Tensor, t: Any) -> tuple[Tensor, Tensor]:
    """Unconditional and conditional output of the real network."""
    twice = torch.cat([x, x])
    if hasattr(pipe, "transformer"):
        given = embeddings(x.dtype)
        both = [
            torch.cat([given["negative_" + name], given[name]])
            for name in ("prompt_embeds", "pooled_prompt_embeds")
        ]
        text = {"encoder_hidden_states": both[0], "pooled_projections": both[1]}
        return pipe.transformer(twice, timestep=t.expand(2), **text).sample.chunk(2)
    embeds = torch.cat(pipe.encode_prompt("a fox", "cpu", 1, True, "a cat")[::-1])
    scaled = pipe.scheduler.scale_model_input(twice, t)
    return pipe.unet(scaled, t, encoder_hidden_states=embeds).sample.chunk(2)


@pytest.fixture(autouse=True)
def pale() -> Iterator[None]:
    with pale_images():
        yield


@contextmanager
def pale_images() -> Iterator[None]:
    """Images well inside [0, 1], where clamping changes nothing; the modules restored after."""
    pipe = tiny_pipeline()
    last = pipe.vae.decoder.conv_out
    saved = [p.detach().clone() for p in last.parameters()]
    for parameter in last.parameters():
        parameter.data.mul_(0.1)
    yield
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, tiny_transformer()):
        module.float()
    for parameter, before in zip(last.parameters(), saved, strict=True):
        parameter.data.copy_(before)


def by_hand(
    pipe: Any, reward: Any, x: Tensor, t: Any, mode: str, form: Parameterization | None = None
) -> tuple[Tensor, Tensor]:
    """Model output and ∂reward/∂x (or ∂x0), with plain autograd through the real modules.

    x0 is computed as the papers write it, or with `form` as a·x + b·out, which rounds otherwise.
    """
    for module in (denoiser(pipe), pipe.vae):
        module.requires_grad_(False)  # other convolution kernels, another last bit
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        uncond, cond = halves(pipe, x, t)
        out = uncond + GUIDANCE_SCALE * (cond - uncond)
        x0 = formula(pipe.scheduler, x, out, t) if form is None else form.x0(x, out)
        source = x if mode == "xt" else x0
        image = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5
        assert image.min() > 0, "the clamp would matter"
        assert image.max() < 1, "the clamp would matter"
        (gradient,) = torch.autograd.grad(reward(image).sum(), source)
    for module in (denoiser(pipe), pipe.vae):
        module.requires_grad_(True)
    return out.detach(), gradient


def formula(scheduler: Any, x: Tensor, out: Tensor, t: Any) -> Tensor:
    """x0 of an epsilon, v or flow model, from the papers."""
    if isinstance(scheduler, EulerDiscreteScheduler | FlowMatchEulerDiscreteScheduler):
        return x - scheduler.sigmas[0] * out
    a = scheduler.alphas_cumprod[t].double()  # in float32 1 - a would be rounded before its root
    alpha, sigma = (float(part.sqrt()) for part in (a, 1 - a))
    if scheduler.config.prediction_type == "epsilon":
        return (x - sigma * out) / alpha
    return alpha * x - sigma * out


SCHEDULER_CASES = {
    "DDIM": tiny_scheduler(DDIMScheduler),
    "DDIM-v": tiny_scheduler(DDIMScheduler, prediction_type="v_prediction"),
    "Euler": tiny_scheduler(EulerDiscreteScheduler),
    "flow transformer": FlowMatchEulerDiscreteScheduler(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("mode", ["x0", "xt"])
@pytest.mark.parametrize("scheduler", SCHEDULER_CASES.values(), ids=SCHEDULER_CASES)
def test_the_gradient_is_the_one_written_by_hand(
    scheduler: Any,
    mode: Any,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    pipe = pipeline_of(scheduler)
    reward: Any = ClipReward(tiny_scorer(), "a fox", negative="a dog")
    if dtype == torch.float64:
        reward = ProjectionReward().double()
    in_dtype(pipe, dtype)
    recording, taken = Recording(scheduler, monkeypatch), evaluations(monkeypatch)
    with guide(pipe, reward, STRENGTH, mode=mode, normalize="raw") as trace:
        call(pipe, dtype)
    edited, t, x = recording.calls[0]
    restart(scheduler)
    rule = SCHEDULERS[type(scheduler).__name__]
    level = rule.level(scheduler, t, step_index(scheduler, t))
    form = rule.parameterization(scheduler, level)
    out, expected = by_hand(pipe, reward, x, t, mode)
    gradient = taken[mode == "xt"].gradient  # at x0 first, then pulled back
    error = float((gradient - expected).norm() / expected.norm())
    record_property("relative_error", error)
    # x0 rounds differently by hand, by 1e-7, which the curvature of random networks multiplies
    assert error <= (2e-6 if expected.dtype == torch.float32 else 1e-12)
    same = by_hand(pipe, reward, x, t, mode, form)[1]
    error = float((gradient - same).norm() / same.norm())
    record_property("relative_error_in_the_same_order", error)
    assert error <= (1e-6 if expected.dtype == torch.float32 else 1e-12)
    factor = level.variance if mode == "x0" else level.sigma**2 / level.alpha
    gradient = (edited.double() - out.double()) * form.b / (STRENGTH * factor)
    assert float((gradient - expected).norm() / expected.norm()) <= 1e-5  # as the scheduler got it
    assert trace.steps[0].grad_norm.item() == pytest.approx(float(expected.norm()), rel=1e-4)


@pytest.mark.parametrize("name", [*SCHEDULER_CASES])
def test_mode_xt_agrees_with_finite_differences_in_float64(
    name: str, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """The whole chain, latents to reward, differentiated by moving the latents."""
    pipe = pipeline_of(SCHEDULER_CASES[name])
    in_dtype(pipe, torch.float64)
    reward = ProjectionReward().double()
    latents, direction = torch.randn(
        2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    taken = evaluations(monkeypatch)

    def first_step(start: Tensor, strength: float) -> Any:
        """Score and gradient at the first step, exactly as a user runs it, unrounded."""
        taken.clear()
        with guide(pipe, reward, strength, mode="xt", normalize="raw"):
            call(pipe, torch.float64, latents=start)
        return taken[strength > 0]

    scale = float(getattr(pipe.scheduler, "init_noise_sigma", 1.0))  # the pipeline's own factor
    slope = scale * float((first_step(latents, 1.0).gradient * direction).sum())
    step = 1e-4
    up, down = (first_step(latents + s * step * direction, 0.0).score for s in (1, -1))
    error = abs(float(up - down) / (2 * step) - slope) / abs(slope)
    record_property("relative_error", error)
    assert error < 1e-4


def in_dtype(pipe: Any, dtype: torch.dtype) -> None:
    for module in (denoiser(pipe), pipe.vae, tiny_pipeline().text_encoder):
        module.to(dtype)


def restart(scheduler: Any) -> None:
    flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    scheduler.set_timesteps(sigmas=SIGMAS) if flow else scheduler.set_timesteps(3)


def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Filled with what guidance evaluates: at x0, then in mode xt pulled back to x_t."""
    taken: list[Any] = []
    for module, name, own in (
        (plug_in, "evaluate", evaluate),
        (xt, "pulled_back", pulled_back),
    ):

        def keeping(*args: Any, own: Any = own, **kwargs: Any) -> Any:
            taken.append(own(*args, **kwargs))
            return taken[-1]

        monkeypatch.setattr(module, name, keeping)
    return taken
