"""Every row of the scheduler table against the scheduler itself; every other class refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from packaging.version import Version
from scheduler_cases import (
    EXPORTED,
    SHAPE,
    STEPS,
    Case,
    available,
    build,
    differences,
    makes_sense,
    pairs,
    rule_at,
    step,
)
from scheduler_x0 import SOLVED, predicts_noise
from tiny_pipelines import SIZE, ProjectionReward, tiny_pipeline, tiny_scheduler

from clipguide.attach.guide import guide
from clipguide.attach.scheduler_refusals import REFUSED, refuse_arguments
from clipguide.attach.schedulers import SCHEDULERS, register_scheduler, scheduler_rule
from clipguide.guidance.parameterization import NoiseLevel

REPORTED, RECOVERED = 2e-6, 1e-5
"""Tolerance where a scheduler says its x0 in float32, and where it is solved from its step."""


NEW = {"0.42": ["PiflowScheduler", "RFD4ProteinaScheduler"]}
"""Classes that came after diffusers 0.41, the lowest version."""


def absent() -> set[str]:
    """Classes that the installed diffusers is too old for."""
    here = Version(diffusers.__version__)
    return {name for version, names in NEW.items() if here < Version(version) for name in names}


def test_every_class_of_diffusers_is_verified_or_refused() -> None:
    """The list is diffusers' own, so a class that a new version brings fails here."""
    known = [*SCHEDULERS, *REFUSED]
    assert sorted(name for name in known if name not in absent()) == EXPORTED


def test_every_row_and_prediction_type_is_compared() -> None:
    expected = {
        (name, prediction)
        for name, rule in SCHEDULERS.items()
        if available(name)
        for prediction in rule.predictions
    }
    assert {(case.name, prediction) for case, prediction in pairs()} == expected


@pytest.mark.parametrize(("case", "prediction"), pairs(), ids=str)
def test_x0_is_the_schedulers_own_also_after_an_edit(
    case: Case, prediction: str, record_property: Callable[[str, object], None]
) -> None:
    found = differences(case, prediction)
    record_property("largest_relative_difference", max(found))  # into pytest's --junit-xml
    assert len(found) >= STEPS - 1
    solved = case.name in SOLVED or predicts_noise(build(case, prediction))
    assert max(found) < (RECOVERED if solved else REPORTED)


# ------------------------------------------------------------------- a run with a known right end

SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
DETERMINISTIC = [
    Case("DDIMScheduler"),
    Case("PNDMScheduler"),
    Case("PNDMScheduler", {"skip_prk_steps": False}),
    Case("PNDMScheduler", {"timestep_spacing": "trailing"}),
    Case("CogVideoXDDIMScheduler"),
    Case("EulerDiscreteScheduler"),
    Case("HeunDiscreteScheduler"),
    Case("LMSDiscreteScheduler"),
    Case("KDPM2DiscreteScheduler"),
    Case("DPMSolverMultistepScheduler"),
    Case("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "flow_shift": 3.0}),
    Case("DPMSolverSinglestepScheduler"),
    Case("DEISMultistepScheduler"),
    Case("UniPCMultistepScheduler"),
    Case("UniPCMultistepScheduler", {"use_flow_sigmas": True}),
    Case("UniPCMultistepScheduler", {"predict_x0": False, **SIGMA_MIN}),
    Case("FlowMatchEulerDiscreteScheduler"),
    Case("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    Case("FlowMatchHeunDiscreteScheduler"),
    Case("LTXEulerAncestralRFScheduler", {"eta": 0.0}),
    Case("MiniMaxH3Scheduler"),
]
KNOWN_ENDS = [
    (case, prediction)
    for case in DETERMINISTIC
    for prediction in case.rule.predictions
    if makes_sense(case, prediction)
    # PNDM averages v over timesteps, which leaves the line
    and (case.name, prediction) != ("PNDMScheduler", "v_prediction")
    # epsilon at the first flow sigma divides by an alpha of 0.002
    and (not case.config.get("use_flow_sigmas") or prediction == "flow_prediction")
]


@pytest.mark.parametrize(("case", "prediction"), KNOWN_ENDS, ids=str)
def test_a_known_image_is_recovered_at_every_step(case: Case, prediction: str) -> None:
    """A denoiser that always says the same eps and x0 keeps the sample on one line."""
    generator = torch.Generator().manual_seed(1)
    x0, eps = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    scheduler = build(case, prediction)
    towards = case.name == "MiniMaxH3Scheduler" or case.config.get("invert_sigmas")
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
            "flow_prediction": x0 - eps if towards else eps - x0,
        }[prediction]
        # epsilon divides what float32 loses in x by alpha, which is 0.07 at first
        torch.testing.assert_close(rule.x0(x, out), x0, rtol=0, atol=3e-5 / max(alpha, 0.05))
        x = step(scheduler, out, t, x).prev_sample
        last = x
    assert float((last - x0).abs().max()) < 0.3  # the last sigma of some is not quite 0


# ------------------------------------------------------------------------------------- the refusal


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in absent()])
def test_a_class_without_a_row_is_refused_with_the_reason(name: str) -> None:
    cls = getattr(diffusers, name)
    with pytest.raises(NotImplementedError, match=r"register_scheduler") as error:
        scheduler_rule(cls.__new__(cls))
    assert f"{name} has no verified rule for x0: {REFUSED[name]}" in str(error.value)


def test_an_unknown_class_is_refused_by_name() -> None:
    unknown = type("MyScheduler", (diffusers.DDIMScheduler,), {})()
    with pytest.raises(NotImplementedError, match=r"MyScheduler has no verified.*register_sched"):
        scheduler_rule(unknown)


def test_a_prediction_type_without_verification_is_refused() -> None:
    scheduler = tiny_scheduler(diffusers.EulerAncestralDiscreteScheduler, prediction_type="sample")
    with pytest.raises(NotImplementedError, match=r"'sample'.*register_scheduler"):
        scheduler_rule(scheduler)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}, "without use_flow"),
        (
            "DPMSolverMultistepScheduler",
            {"prediction_type": "v_prediction", "use_flow_sigmas": True},
            "with use_flow_sigmas",
        ),
        ("FlowMatchLCMScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        (
            "FlowMatchEulerDiscreteScheduler",
            {"invert_sigmas": True, "stochastic_sampling": True},
            "invert_sigmas",
        ),
    ],
)
def test_settings_without_a_formula_are_refused(
    name: str, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(NotImplementedError, match=rf"{name}.*{words}.*register_scheduler"):
        scheduler_rule(getattr(diffusers, name)(**config))


def test_arguments_of_step_that_change_x0_are_refused() -> None:
    pipe = tiny_pipeline(scheduler=tiny_scheduler(diffusers.EulerDiscreteScheduler))
    pipe.scheduler.set_timesteps(2)
    x = torch.zeros(1, 4, SIZE // 2, SIZE // 2)
    with (
        pytest.raises(NotImplementedError, match=r"EulerDiscreteScheduler.step was given s_churn"),
        guide(pipe, ProjectionReward(), 0.5),
    ):
        pipe.scheduler.step(x, pipe.scheduler.timesteps[0], x, s_churn=0.5)
    for name in ("pred_original_sample", "per_token_timesteps"):
        refuse_arguments(pipe.scheduler, {name: None, "s_churn": 0.0})
        with pytest.raises(NotImplementedError, match=name):
            refuse_arguments(pipe.scheduler, {name: x})


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
