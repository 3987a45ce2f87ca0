"""Samplers by name keep what the model predicts and its noise schedule, or are refused."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from families.flows_plain import sana
from tiny_pipelines import tiny_pipeline, tiny_scheduler

from clipguide.attach.samplers import SAMPLERS, sampler_label, set_sampler
from clipguide.attach.schedulers import SCHEDULERS, scheduler_rule


def dpm_of_flows() -> Any:
    return diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )


FLOWS = {
    "Euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "Heun": diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "DPM": dpm_of_flows(),
}


MADE: dict[str, Any] = {  # the same schedules without a conversion
    "euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": lambda: diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0),
    "dpmpp_2m": dpm_of_flows,
    "unipc": lambda: diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
}


def outcome(pipe: Any, name: str) -> str:
    """What becomes of the scheduler: its class, or the refusal, after which it is what it was."""
    before = pipe.scheduler
    try:
        set_sampler(pipe, name)
    except ValueError as refusal:
        assert pipe.scheduler is before
        return str(refusal)
    return type(pipe.scheduler).__name__


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("source", FLOWS)
def test_a_flow_model_stays_one(name: str, source: str) -> None:
    pipe = sana()
    pipe.scheduler = FLOWS[source]
    found = outcome(pipe, name)
    if SAMPLERS[name].flow is None:
        assert name in found
        assert "euler, heun, dpmpp_2m, unipc" in found
        return
    scheduler = pipe.scheduler
    assert found == SAMPLERS[name].flow
    assert scheduler_rule(scheduler).prediction_of(scheduler) == "flow_prediction"
    assert sampler_label(pipe) == SAMPLERS[name].label
    scheduler.set_timesteps(8)
    truth = MADE[name]()
    truth.set_timesteps(8)
    assert torch.equal(scheduler.sigmas, truth.sigmas)
    assert torch.equal(scheduler.timesteps, truth.timesteps)
    # every level of it is one of the model's own line: shift 3 of a level that is not shifted
    levels = scheduler.sigmas[:-1]
    assert bool(((levels > 0) & (levels <= 1)).all())
    steps = (levels / (3 - 2 * levels)).unique().diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", [{}, {"beta_schedule": "scaled_linear", "beta_end": 0.012}])
def test_prediction_and_betas_are_kept(name: str, prediction: str, betas: dict[str, Any]) -> None:
    """Also those that the first class had by default: other classes have other defaults."""
    pipe = tiny_pipeline(scheduler=diffusers.DDIMScheduler(prediction_type=prediction, **betas))
    before = pipe.scheduler.alphas_cumprod.clone()
    found = outcome(pipe, name)
    if prediction not in SCHEDULERS[SAMPLERS[name].scheduler].predictions:
        assert f"a model that predicts {prediction!r}" in found
        return
    assert found == SAMPLERS[name].scheduler
    assert pipe.scheduler.config.prediction_type == prediction
    assert torch.equal(pipe.scheduler.alphas_cumprod, before)


@pytest.mark.parametrize(
    ("scheduler", "name", "word"),
    [
        (diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "pndm", "rescale_betas_zero_snr"),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "heun",
         "use_dynamic_shifting"),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), "dpmpp_2m",
         "use_karras_sigmas"),
        (diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type="linear"), "unipc", "linear"),
        (diffusers.DDPMScheduler(variance_type="learned_range"), "euler", "variance_type"),
        (diffusers.EDMEulerScheduler(), "euler", "EDMEulerScheduler"),
        (diffusers.SCMScheduler(), "ddim", "SCMScheduler"),
        (diffusers.CogVideoXDDIMScheduler(), "ddim", "alphas_cumprod"),
        (diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "euler", "FlowMatch"),
        (tiny_scheduler(diffusers.DDPMWuerstchenScheduler), "ddpm", "DDPMWuerstchenScheduler"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(scheduler: Any, name: str, word: str) -> None:
    pipe = tiny_pipeline()
    pipe.scheduler = scheduler
    assert word in outcome(pipe, name)
    assert pipe.scheduler is scheduler
