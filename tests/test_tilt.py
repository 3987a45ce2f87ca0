"""Mode tilt: the denoiser asked at another latent and timestep answers for the tilted prior."""

from __future__ import annotations

import copy
from typing import Any

import diffusers
import pytest
import torch
from diffusers import EulerDiscreteScheduler, PNDMScheduler
from tiny_mixture import PRIOR, exact_pipeline
from tiny_pipelines import ProjectionReward, draw, tiny_pipeline, tiny_scheduler
from tiny_pixels import likelihood, pixel_pipeline
from tiny_search import Stopped
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.modes.tilt import ADVANCED, Slope
from clipguide.attach.observe import Step, observe
from clipguide.attach.schedulers import scheduler_rule, step_index
from clipguide.evaluation.gaussian_mixture import Linear, Quadratic
from clipguide.guidance import presets
from clipguide.search import search
from clipguide.search.path import GuidanceState, Path, StepRecord

# ------------------------------------------------------------------------------ the identity itself

FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
SOLVERS = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler")
IDENTITY_CASES = [
    *((name, p) for name in ADVANCED if name not in FLOWS for p in ("epsilon", "v_prediction")),
    *((name, "flow_prediction") for name in (*FLOWS, *SOLVERS)),
]


def estimates(pipe: Any, reward: Any, steps: int, **settings: Any) -> list[tuple[Tensor, Tensor]]:
    """(guided x0 as the scheduler is given it, exact mean of the tilted posterior), per step."""
    found: list[tuple[Tensor, Tensor]] = []

    def look(step: Step) -> None:
        scheduler = pipe.scheduler
        index = step_index(scheduler, step.timestep)
        level = scheduler_rule(scheduler).level(scheduler, step.timestep, index)
        found.append((step.x0(), reward.posterior(PRIOR).x0(step.sample, level)))

    config = presets.tilted(1.0, reward.width)
    with (
        guide(pipe, reward, config=config, decoder=lambda x0: x0, **settings),
        observe(pipe) as observer,
        observer.watching(look),
    ):
        pipe(steps)
    return found


@pytest.mark.parametrize(("name", "prediction"), IDENTITY_CASES)
@pytest.mark.parametrize("reward", [Linear(0.9), Quadratic(1.0, 0.8)], ids=["linear", "quadratic"])
def test_the_scheduler_is_given_the_mean_of_the_tilted_posterior(
    name: str, prediction: str, reward: Any
) -> None:
    """At every step but the first, before which no slope is known."""
    pipe = exact_pipeline(name, prediction)
    found = estimates(pipe, reward, 12)[1:]
    assert len(found) >= 11
    for given, exact in found[:-1]:  # the last may be at sigma = 0
        # timesteps of flow solvers are rounded to integers, those of diffusion are a grid
        torch.testing.assert_close(given, exact, rtol=0, atol=0.02)
    off = torch.stack([(given - exact).abs().mean() for given, exact in found[:-1]])
    assert float(off.mean()) < (1e-4 if name in FLOWS else 0.005)
    assert type(pipe.scheduler.timesteps) is Tensor


def test_a_plain_shift_is_not_enough_for_a_reward_that_curves() -> None:
    """What the width is for: without it the same reward is off by a tenth."""
    pipe = exact_pipeline("DDIMScheduler", "epsilon")
    reward = Quadratic(1.0, 0.8)
    reward_without_width: Any = type("R", (), {"width": None, "posterior": reward.posterior})()
    reward_without_width.__class__.__call__ = lambda self, images: reward(images)
    found = estimates(pipe, reward_without_width, 12)[1:]
    assert max(float((given - exact).abs().max()) for given, exact in found) > 0.1


def test_the_width_is_of_strength_times_reward() -> None:
    assert presets.tilted(4.0, 0.8).reward_width == pytest.approx(0.4)
    assert presets.tilted(4.0).reward_width is None
    assert presets.tilted(0.0, 0.8).reward_width is None


# -------------------------------------------------------------------------------- two steps by hand


@pytest.mark.parametrize("width", [None, 1.5])
def test_tilt_is_the_denoiser_at_the_moved_latent(width: float | None) -> None:
    """The slope of the first step moves the second's latent and timestep, and nothing else."""
    pipe: Any = pixel_pipeline("ddim")
    scheduler, unet = pipe.scheduler, pipe.unet
    scheduler.register_to_config(timestep_spacing="trailing")
    with guide(
        pipe,
        likelihood,
        0.4,
        mode="tilt",
        normalize="raw",
        reward_width=width,
        decoder=lambda x0: x0,
    ):
        image = pipe(2, torch.Generator())
    scheduler.set_timesteps(2)
    first, second = scheduler.timesteps
    a1, a2 = (scheduler.alphas_cumprod[t] for t in (first, second))
    with torch.no_grad():
        x = pipe.prepare_latents(None)
        out = unet(x, first)
        x0 = ((x - (1 - a1).sqrt() * out) / a1.sqrt()).requires_grad_()
        with torch.enable_grad():
            (h,) = torch.autograd.grad(likelihood(x0).sum(), x0)
        slope, damped = 0.4 * h, 1 + (0 if width is None else (1 - a1) / width**2)
        first_delta = (1 - a1) / damped * slope  # no slope was known before: as mode x0 does
        opened = out - a1.sqrt() / (1 - a1).sqrt() * first_delta
        x = scheduler.step(opened, first, x).prev_sample
        wanted = a2 / (1 - a2) + (0 if width is None else width**-2)
        table = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
        later = (table / wanted).log().abs().argmin()
        b = scheduler.alphas_cumprod[later]
        kappa = table[later] - table[second]
        seen = (1 - b) / b.sqrt() * (a2.sqrt() / (1 - a2) * x + slope + kappa * x0)
        expected = (seen - (1 - b).sqrt() * unet(seen, later)) / b.sqrt()
    assert (later == second) == (width is None)
    torch.testing.assert_close(image, expected, rtol=1e-9, atol=1e-9)  # the last returns its x0


# --------------------------------------------------------------------------------- real pipelines


@pytest.mark.parametrize("width", [None, 0.5])
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", SOLVERS[0]]
)
def test_tilt_raises_the_reward_and_leaves_nothing_behind(name: str, width: float | None) -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(getattr(diffusers, name)))
    reward = ProjectionReward()
    before = draw(pipe, 1, 2)
    with guide(pipe, reward, 0.0, mode="tilt", reward_width=width) as plain:
        assert torch.equal(draw(pipe, 1, 2), before)
    with guide(pipe, reward, 0.5, mode="tilt", reward_width=width) as trace:
        draw(pipe, 1, 2)
    assert len(trace.steps) == len(plain.steps)
    assert [step.timestep for step in trace.steps] == [step.timestep for step in plain.steps]
    assert (trace.steps[-1].score > plain.steps[-1].score).all()
    assert torch.equal(draw(pipe, 1, 2), before)


def test_an_image_is_its_own_in_a_batch() -> None:
    """In float64: what a larger batch is rounded by is no part of the question."""
    pipe = copy.deepcopy(tiny_pipeline()).to(torch.float64)
    with guide(pipe, ProjectionReward().double(), 0.5, mode="tilt", reward_width=0.5):
        both, alone = draw(pipe, 1, 2), draw(pipe, 2)
    assert both.dtype == torch.float64
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-11)


def test_what_a_callback_writes_stands_as_written() -> None:
    """As inpainting does, which blends the known region in after each step."""
    pipe = tiny_pipeline()
    seen: list[Tensor] = []

    def write(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        latents = tensors["latents"].clone()
        latents[:, :, :4] = 0.25
        return {"latents": latents}

    with (
        guide(pipe, ProjectionReward(), 0.5, mode="tilt"),
        observe(pipe) as observer,
        observer.watching(lambda step: seen.append(step.sample)),
    ):
        draw(pipe, 1, callback_on_step_end=write)
    for sample in seen[1:]:
        assert (sample[:, :, :4] == 0.25).all()
        assert (sample[:, :, 4:] != 0.25).all()


# -------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kind", "scheduler", "message"),
    [
        ("text", tiny_scheduler(PNDMScheduler), "reward_width on PNDMScheduler"),
        ("text", EulerDiscreteScheduler(timestep_type="continuous"), "plain timesteps"),
        ("inpaint", None, "reward_width on an inpainting pipeline"),
    ],
)
def test_a_width_is_refused_where_the_denoiser_cannot_be_asked_elsewhere(
    kind: str, scheduler: Any, message: str
) -> None:
    pipe = tiny_pipeline(kind, scheduler)
    with (
        pytest.raises(ValueError, match=message),
        guide(pipe, ProjectionReward(), 0.1, mode="tilt", reward_width=0.5),
    ):
        raise AssertionError("not reached")


def test_a_loop_of_its_own_is_found_out() -> None:
    pipe: Any = pixel_pipeline("ddim")

    @torch.no_grad()
    def own_loop() -> None:
        pipe.scheduler.set_timesteps(3)
        x = pipe.prepare_latents(None)
        for t in pipe.scheduler.timesteps.tolist():
            x = pipe.scheduler.step(pipe.unet(x, torch.tensor(t)), t, x).prev_sample

    with (
        pytest.raises(RuntimeError, match="the timestep of its latents"),
        guide(pipe, likelihood, 0.1, mode="tilt", reward_width=0.5, decoder=lambda x0: x0),
    ):
        own_loop()


# ---------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("width", [None, 0.5])
def test_a_search_finishes_what_it_stopped_as_if_it_had_not(width: float | None) -> None:
    pipe, reward = tiny_pipeline(), ProjectionReward()
    with guide(pipe, reward, 0.5, mode="tilt", reward_width=width):
        whole, stopped = (
            search(pipe, "a fox", reward, method, 3, seed=0, num_inference_steps=4)
            for method in ("best_of", Stopped())
        )
    assert [c.seed for c in stopped] == [c.seed for c in whole]
    for a, b in zip(stopped, whole, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-6)


def test_a_sample_that_goes_on_elsewhere_takes_its_slope_along() -> None:
    pipe = tiny_pipeline()

    def images(turn: bool) -> Tensor:
        def look(step: Step) -> tuple[Tensor, Tensor] | None:
            return step.select(torch.tensor([1, 0])) if turn and step.index == 1 else None

        with (
            guide(pipe, ProjectionReward(), 0.5, mode="tilt"),
            observe(pipe) as observer,
            observer.watching(look),
        ):
            return draw(pipe, 1, 2)

    torch.testing.assert_close(images(True), images(False).flip(0), rtol=0, atol=2e-5)


def test_a_particle_takes_its_ancestors_slope() -> None:
    slope = Slope(torch.ones(1, 2), torch.zeros(1, 2))
    x = torch.zeros(1, 2)
    step = (StepRecord(x, x, torch.zeros(1, dtype=torch.uint8)),)
    child = Path(1, step).following(Path(0, step, GuidanceState(memory=slope)))
    assert child.guidance.memory is slope


def test_a_loop_off_the_schedule_is_guided_at_x0() -> None:
    """Where the next timestep is not known nothing can be handed ahead; no step goes unguided."""
    pipe = exact_pipeline("DDIMScheduler", "epsilon")

    def run(**settings: Any) -> Tensor:
        with guide(pipe, Linear(0.9), 1.0, normalize="raw", decoder=lambda x0: x0, **settings):
            pipe.scheduler.set_timesteps(20)
            x = pipe.prepare_latents()
            for t in pipe.scheduler.timesteps - 3:
                x = pipe.scheduler.step(pipe.unet(x, t), t, x).prev_sample
        return x

    assert torch.equal(run(mode="tilt"), run(mode="x0"))
    assert not torch.equal(run(mode="tilt"), run(mode="x0", window=(0.9, 1.0)))
