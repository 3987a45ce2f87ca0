"""Every row of the scheduler table against the scheduler itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import tiny_scheduler
from torch import Tensor

from clipguide.attach.schedulers import (
    SCHEDULERS,
    register_scheduler,
    restrict_x0,
    scheduler_rule,
    step_index,
)
from clipguide.guidance.parameterization import NoiseLevel, Parameterization, parameterization

SHAPE = (2, 4, 4, 4)
STEPS = 10  # divides 1000: PNDM assumes it


@dataclass(frozen=True)
class Case:
    """A scheduler class with settings that change its arithmetic."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = (f"{k}={v}" for k, v in self.config.items())
        return "-".join([self.name.removesuffix("Scheduler"), *settings])


CASES = [
    *(Case(name) for name in SCHEDULERS),
    Case("DDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    Case("DDIMScheduler", {"clip_sample": True, "clip_sample_range": 0.7}),
    Case("DDIMScheduler", {"thresholding": True}),
    Case("DDPMScheduler", {"clip_sample": True}),
    Case("DDPMScheduler", {"variance_type": "learned_range"}),
    Case("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    Case("EulerDiscreteScheduler", {"use_exponential_sigmas": True}),
    Case("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}),
    Case("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    Case("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    Case("HeunDiscreteScheduler", {"clip_sample": True}),
    Case("KDPM2DiscreteScheduler", {"use_karras_sigmas": True}),
    Case("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}),
    Case("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Case("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "euler_at_final": True}),
    Case("DPMSolverMultistepScheduler", {"thresholding": True}),
    Case("DPMSolverMultistepScheduler", {"rescale_betas_zero_snr": True}),
    Case("DPMSolverSinglestepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
    Case("UniPCMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}),
    Case("UniPCMultistepScheduler", {"solver_type": "bh1", "thresholding": True}),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]
PAIRS = [
    (case, prediction)
    for case in CASES
    for prediction in SCHEDULERS[case.name].predictions
    # epsilon says nothing where the signal is zero; the scheduler itself divides by zero there
    if not (case.config.get("rescale_betas_zero_snr") and prediction == "epsilon")
]


def build(case: Case, prediction: str) -> Any:
    scheduler = tiny_scheduler(
        getattr(diffusers, case.name), prediction_type=prediction, **case.config
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def step(scheduler: Any, out: Tensor, t: Tensor, x: Tensor) -> Any:
    scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else None
    return scheduler.step(out, t, x, return_dict=True)


def rule_at(scheduler: Any, t: Tensor) -> tuple[NoiseLevel, Parameterization]:
    rule = scheduler_rule(scheduler)
    level = rule.level(scheduler, t, step_index(scheduler, t))
    return level, parameterization(rule.prediction_of(scheduler), level)


# ------------------------------------------------------------- what the scheduler itself calls x0


def _reported(scheduler: Any, result: Any, seen: list[Tensor], t: Tensor, x: Tensor) -> Tensor:
    return result.pred_original_sample


def _converted(scheduler: Any, result: Any, seen: list[Tensor], t: Tensor, x: Tensor) -> Tensor:
    return seen[-1]


def _from_noise(scheduler: Any, result: Any, seen: list[Tensor], t: Tensor, x: Tensor) -> Tensor:
    """DEIS keeps eps = (x - alpha·x0)/sigma; solved for x0 in float64."""
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index - 1])
    return ((x.double() - sigma.double() * seen[-1].double()) / alpha.double()).float()


def _from_denoised(scheduler: Any, result: Any, seen: list[Tensor], t: Tensor, x: Tensor) -> Tensor:
    """LCM returns c_out·x0 + c_skip·x."""
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
    return ((result.denoised.double() - c_skip.double() * x.double()) / c_out.double()).float()


def _from_velocity(scheduler: Any, result: Any, seen: list[Tensor], t: Tensor, x: Tensor) -> Tensor:
    """Flow matching, Euler: x' = x + (sigma' - sigma)·v, and x0 is where sigma' would be 0."""
    now, then = scheduler.sigmas[scheduler.step_index - 1 : scheduler.step_index + 1].double()
    return (x.double() + (result.prev_sample.double() - x.double()) * now / (now - then)).float()


OWN: dict[str, Callable[..., Tensor]] = {
    "LCMScheduler": _from_denoised,
    "DEISMultistepScheduler": _from_noise,
    "FlowMatchEulerDiscreteScheduler": _from_velocity,
    **dict.fromkeys(
        [
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "UniPCMultistepScheduler",
            "SASolverScheduler",
        ],
        _converted,
    ),
    **dict.fromkeys(
        [
            "DDIMScheduler",
            "DDPMScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "LMSDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
        ],
        _reported,
    ),
}
"""PNDM keeps no x0: test_a_known_image_is_recovered_at_every_step verifies it."""


def own_x0(case: Case, prediction: str) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Through a run on random outputs, edited: (our x0, the scheduler's, noise level) per step."""
    torch.manual_seed(0)
    scheduler = build(case, prediction)
    convert, seen = getattr(scheduler, "convert_model_output", None), []
    if convert is not None:
        scheduler.convert_model_output = lambda *a, **k: seen.append(convert(*a, **k)) or seen[-1]
    x = torch.randn(SHAPE) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        level, rule = rule_at(scheduler, t)
        out = torch.randn(SHAPE)
        delta = 0.1 * torch.randn(SHAPE)
        edited = rule.displace(out, delta)
        ours = restrict_x0(scheduler, rule.x0(x, out) + delta)
        learned = scheduler.config.get("variance_type") == "learned_range"
        given = torch.cat([edited, torch.zeros(SHAPE)], dim=1) if learned else edited
        result = step(scheduler, given, t, x)
        yield ours, OWN[case.name](scheduler, result, seen, t, x), level.sigma_bar
        x = result.prev_sample


def differences(case: Case, prediction: str) -> list[float]:
    """Per step, the largest |our x0 - its own| over the largest |x0|."""
    return [
        float((ours - own).abs().max() / own.abs().max())
        for ours, own, _ in own_x0(case, prediction)
    ]


@pytest.mark.parametrize(("case", "prediction"), [p for p in PAIRS if p[0].name in OWN], ids=str)
def test_x0_is_the_schedulers_own_also_after_an_edit(
    case: Case, prediction: str, record_property: Callable[[str, object], None]
) -> None:
    found = differences(case, prediction)
    record_property("largest_relative_difference", max(found))  # into pytest's --junit-xml
    assert len(found) >= STEPS - 1
    assert max(found) < 2e-6


# ------------------------------------------------------------------- a run with a known right end

DETERMINISTIC = [
    Case("DDIMScheduler"),
    Case("PNDMScheduler"),
    Case("PNDMScheduler", {"skip_prk_steps": False}),
    Case("PNDMScheduler", {"timestep_spacing": "trailing"}),
    Case("EulerDiscreteScheduler"),
    Case("HeunDiscreteScheduler"),
    Case("LMSDiscreteScheduler"),
    Case("KDPM2DiscreteScheduler"),
    Case("DPMSolverMultistepScheduler"),
    Case("DPMSolverSinglestepScheduler"),
    Case("DEISMultistepScheduler"),
    Case("UniPCMultistepScheduler"),
    Case("UniPCMultistepScheduler", {"predict_x0": False, "final_sigmas_type": "sigma_min"}),
    Case("FlowMatchEulerDiscreteScheduler"),
]


@pytest.mark.parametrize(
    ("case", "prediction"),
    [
        (case, prediction)
        for case in DETERMINISTIC
        for prediction in SCHEDULERS[case.name].predictions
        # PNDM averages v over timesteps, which leaves the line: test_pndm_* instead
        if (case.name, prediction) != ("PNDMScheduler", "v_prediction")
    ],
    ids=str,
)
def test_a_known_image_is_recovered_at_every_step(case: Case, prediction: str) -> None:
    """A denoiser that always says the same eps and x0 keeps the sample on one line."""
    generator = torch.Generator().manual_seed(1)
    x0, eps = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    scheduler = build(case, prediction)
    x, last = None, torch.zeros(SHAPE)
    for t in scheduler.timesteps:
        level, rule = rule_at(scheduler, t)
        if x is None:
            x = level.alpha * x0 + level.sigma * eps
        alpha, sigma = level.alpha / level.radius, level.sigma / level.radius
        out = {
            "epsilon": eps,
            "v_prediction": alpha * eps - sigma * x0,
            "sample": x0,
            "flow_prediction": eps - x0,
        }[prediction]
        # epsilon divides what float32 loses in x by alpha, which is 0.07 at first
        torch.testing.assert_close(rule.x0(x, out), x0, rtol=0, atol=3e-5 / max(alpha, 0.05))
        x = step(scheduler, out, t, x).prev_sample
        last = x
    assert float((last - x0).abs().max()) < 0.3  # the last sigma of some is not quite 0


@pytest.mark.parametrize("prediction", SCHEDULERS["PNDMScheduler"].predictions)
@pytest.mark.parametrize("config", [{}, {"timestep_spacing": "trailing"}], ids=str)
def test_pndm_steps_from_the_x0_of_a_constant_output(
    prediction: str, config: dict[str, Any]
) -> None:
    """An average of equal outputs is the output, so each step is DDIM's and tells its x0."""
    torch.manual_seed(2)
    scheduler = build(Case("PNDMScheduler", config), prediction)
    x, out = torch.randn(2, *SHAPE)
    for index, (t, then) in enumerate(itertools.pairwise(scheduler.timesteps)):
        ours = rule_at(scheduler, t)[1].x0(x, out)
        stepped = step(scheduler, out, t, x).prev_sample
        if index != 1:  # step 1 repeats step 0 from its sample
            a, b = (scheduler.alphas_cumprod[int(u)].double() for u in (t, then))
            # x' = √b·x0 + √(1-b)·eps with x = √a·x0 + √(1-a)·eps, solved for x0
            own = (stepped * (1 - a).sqrt() - x * (1 - b).sqrt()) / (
                b.sqrt() * (1 - a).sqrt() - a.sqrt() * (1 - b).sqrt()
            )
            torch.testing.assert_close(ours, own.float(), rtol=1e-4, atol=1e-4)
        x = stepped


def test_every_row_is_verified_here() -> None:
    covered = {case.name for case, _ in PAIRS if case.name in OWN}
    covered |= {case.name for case in DETERMINISTIC}
    assert covered == {*SCHEDULERS}


# ------------------------------------------------------------------------------------- the refusal


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "DPMSolverSDEScheduler", "IPNDMScheduler"])
def test_a_scheduler_without_a_row_is_refused_by_name(name: str) -> None:
    fake = type(name, (diffusers.DDIMScheduler,), {})()
    with pytest.raises(NotImplementedError, match=rf"{name} has no verified.*register_scheduler"):
        scheduler_rule(fake)


def test_a_prediction_type_without_verification_is_refused() -> None:
    scheduler = tiny_scheduler(diffusers.EulerAncestralDiscreteScheduler, prediction_type="sample")
    with pytest.raises(NotImplementedError, match=r"'sample'.*register_scheduler"):
        scheduler_rule(scheduler)


def test_a_registered_scheduler_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipguide.attach.schedulers.SCHEDULERS", dict(SCHEDULERS))
    mine = type("MyScheduler", (diffusers.DDIMScheduler,), {})(prediction_type="v_prediction")
    register_scheduler("MyScheduler", lambda s, t, i: NoiseLevel(0.6, 0.8), ("v_prediction",))
    rule = scheduler_rule(mine)
    assert (rule.prediction_of(mine), rule.level(mine, 0, None)) == (
        "v_prediction",
        NoiseLevel(0.6, 0.8),
    )
    with pytest.raises(ValueError, match="got predictions"):
        register_scheduler("Other", rule.level, ("score",))
