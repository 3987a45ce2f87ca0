"""Every scheduler of diffusers: the settings it is tried with, and what it itself calls x0.

    python tests/scheduler_cases.py > docs/schedulers.md      # about 20 s on one core

prints the table of docs/schedulers.md: each row of the registry with its largest difference, each
class without a row with the reason.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from scheduler_x0 import NOISE_SEED, OWN, SOLVED, predicts_noise
from tiny_pipelines import tiny_scheduler
from torch import Tensor

from clipguide.attach.scheduler_refusals import REFUSED
from clipguide.attach.schedulers import SCHEDULERS, SchedulerRule, scheduler_rule, step_index
from clipguide.guidance.parameterization import NoiseLevel, Parameterization

SHAPE = (2, 4, 4, 4)
STEPS = 10
TRAINED = 200  # timesteps; STEPS divides it: PNDM assumes so. Tables of 1,000 take seconds to build
BETAS = {"num_train_timesteps": TRAINED, "beta_start": 0.00425, "beta_end": 0.06}
NEEDS_TORCHSDE = {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}

EXPORTED = sorted(
    name for name in dir(diffusers) if name.endswith("Scheduler") and name != "SchedulerMixin"
)
"""What diffusers itself says there is."""

# settings that change a scheduler's arithmetic; a class is tried with each that it knows
SETTINGS: list[dict[str, Any]] = [
    {},
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {"use_lu_lambdas": True, "euler_at_final": True},
    {"sigma_schedule": "exponential"},
    {"timestep_spacing": "linspace"},
    {"timestep_spacing": "leading"},
    {"timestep_spacing": "trailing"},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"clip_sample": True},
    {"clip_sample": True, "clip_sample_range": 0.7},
    {"clip_denoised": True},
    {"thresholding": True},
    {"variance_type": "learned_range"},
    {"solver_order": 1},
    {"solver_order": 3},
    {"solver_type": "bh1", "use_karras_sigmas": True},
    {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
    {"algorithm_type": "sde-dpmsolver++"},
    {"algorithm_type": "noise_prediction"},
    {"predict_x0": False, "final_sigmas_type": "sigma_min"},
    {"use_flow_sigmas": True},
    {"use_flow_sigmas": True, "flow_shift": 3.0},
    {"shift": 3.0},
    {"stochastic_sampling": True},
    {"invert_sigmas": True},
    {"eta": 0.0},
]
ALGORITHMS = {
    "DPMSolverMultistepScheduler": {"dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"},
    "DPMSolverSinglestepScheduler": {"dpmsolver", "sde-dpmsolver++"},
    "EDMDPMSolverMultistepScheduler": {"sde-dpmsolver++"},
    "SASolverScheduler": {"noise_prediction"},
}
# defaults that the comparison needs: no noise where x0 is solved from what a step returns
FIXED: dict[str, dict[str, Any]] = {
    "CMStochasticIterativeScheduler": {
        "num_train_timesteps": 40,
        "s_noise": 0.0,
        "clip_denoised": False,
    },
    "LTXEulerAncestralRFScheduler": {"s_noise": 0.0},
    "DPMSolverSDEScheduler": {"noise_sampler_seed": 0},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
}


@dataclass(frozen=True)
class Case:
    """A scheduler class with settings that change its arithmetic."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        settings = (f"{k}={v}" for k, v in self.config.items())
        return "-".join([self.name.removesuffix("Scheduler"), *settings])

    @property
    def rule(self) -> SchedulerRule:
        return SCHEDULERS[self.name]


def available(name: str) -> bool:
    return name not in NEEDS_TORCHSDE or find_spec("torchsde") is not None


def cases() -> Iterator[Case]:
    """Every registered class that can be built here, with every setting it knows."""
    for name in filter(available, SCHEDULERS):
        known = inspect.signature(getattr(diffusers, name).__init__).parameters
        for config in SETTINGS:
            algorithm = config.get("algorithm_type")
            if algorithm and algorithm not in ALGORITHMS.get(name, set()):
                continue
            if config.get("solver_type") == "bh1" and "UniPC" not in name:
                continue
            if config == {"solver_order": 3} and "Cosine" in name:
                continue  # it has orders 1 and 2
            if known.keys() >= config.keys():
                yield Case(name, config)


def makes_sense(case: Case, prediction: str) -> bool:
    """Whether diffusers itself can run the combination."""
    get = case.config.get
    if get("rescale_betas_zero_snr") and prediction == "epsilon":
        return False  # says nothing where the signal is zero: the scheduler divides by zero
    if get("use_flow_sigmas") and prediction == "v_prediction":
        return False  # refused: test_settings_without_a_formula_are_refused
    if get("invert_sigmas") and case.name == "FlowMatchLCMScheduler":
        return False  # refused as well
    if get("variance_type") and "Solver" in case.name:
        return False  # cuts the output to three channels
    own_flow = "use_flow_sigmas" in inspect.signature(getattr(diffusers, case.name)).parameters
    flow = prediction == "flow_prediction"
    return not (flow and own_flow) or bool(get("use_flow_sigmas"))


def pairs() -> list[tuple[Case, str]]:
    """Every (case, prediction type) that is compared with the scheduler's own x0."""
    return [(c, p) for c in cases() for p in c.rule.predictions if makes_sense(c, p)]


def build(case: Case, prediction: str) -> Any:
    named = "trigflow" if case.name == "SCMScheduler" else prediction
    config = BETAS | FIXED.get(case.name, {}) | case.config
    scheduler = tiny_scheduler(getattr(diffusers, case.name), prediction_type=named, **config)
    extra = {"intermediate_timesteps": None} if case.name == "SCMScheduler" else {}
    scheduler.set_timesteps(STEPS, **extra)
    return scheduler


def rule_at(scheduler: Any, t: Tensor) -> tuple[NoiseLevel, Parameterization]:
    rule = scheduler_rule(scheduler)
    level = rule.level(scheduler, t, step_index(scheduler, t))
    return level, rule.parameterization(scheduler, level)


def step(scheduler: Any, out: Tensor, t: Tensor, x: Tensor, before: Any = None) -> Any:
    """One step as the class's own pipeline calls it; `before` is what the step before returned."""
    if hasattr(scheduler, "scale_model_input"):
        scheduler.scale_model_input(x, t)
    x0 = getattr(before, "pred_original_sample", None)
    arguments = {
        "return_dict": True,
        "generator": torch.Generator().manual_seed(NOISE_SEED),
        "original_image": torch.zeros_like(x),
        "mask": torch.zeros_like(x),
        "old_pred_original_sample": x0,
        "timestep_back": None if x0 is None else t + TRAINED // STEPS,
    }
    if type(scheduler).__name__ == "DDPMWuerstchenScheduler":
        t = t.expand(len(x))
    known = inspect.signature(scheduler.step).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    result = scheduler.step(model_output=out, timestep=t, sample=x, **given)
    if isinstance(result, tuple):
        result = SimpleNamespace(prev_sample=result[0], pred_original_sample=result[1])
    return result


def timesteps(scheduler: Any) -> Tensor:
    """Those that pipelines step through: some tables end with the level 0 that is arrived at."""
    ends = type(scheduler).__name__ in {"DDPMWuerstchenScheduler", "SCMScheduler"}
    return scheduler.timesteps[:-1] if ends else scheduler.timesteps


def own_x0(case: Case, prediction: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Through a run on random outputs, edited: (our x0, the scheduler's) per step.

    In float64 where its x0 is solved from what the step returns: solving magnifies rounding.
    """
    torch.manual_seed(0)
    scheduler = build(case, prediction)
    solved = case.name in SOLVED or predicts_noise(scheduler)
    dtype = torch.float64 if solved else torch.float32
    convert, seen = getattr(scheduler, "convert_model_output", None), []
    if convert is not None:
        scheduler.convert_model_output = lambda *a, **k: seen.append(convert(*a, **k)) or seen[-1]
    x = torch.randn(SHAPE, dtype=dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
    result = None
    for t in timesteps(scheduler):
        level, rule = rule_at(scheduler, t)
        out = torch.randn(SHAPE, dtype=dtype)
        delta = 0.1 * torch.randn(SHAPE, dtype=dtype)
        edited = rule.displace(out, delta) if rule.invertible else out
        ours = rule.x0(x, out) + (delta if rule.invertible else 0)
        learned = scheduler.config.get("variance_type") == "learned_range"
        given = torch.cat([edited, torch.zeros_like(out)], dim=1) if learned else edited
        own = OWN[case.name]
        state = own.before(scheduler, t, level)
        result = step(scheduler, given, t, x, result)
        if not (case.name == "IPNDMScheduler" and level.alpha == 0):  # its first step drops x0
            theirs = own.x0(scheduler, result, seen, x, state)
            yield case.rule.finish(scheduler, ours), own.finish(scheduler, theirs)
        x = result.prev_sample


def differences(case: Case, prediction: str) -> list[float]:
    """Per step, the largest |our x0 - its own| over the largest |x0|."""
    return [
        float((ours - own).abs().max() / own.abs().max()) for ours, own in own_x0(case, prediction)
    ]


# ------------------------------------------------------------------------------------- the document


@cache
def measured() -> dict[str, float]:
    """Scheduler -> its largest difference over all cases."""
    found: dict[str, float] = {}
    for case, prediction in pairs():
        largest = max(differences(case, prediction))
        found[case.name] = max(found.get(case.name, 0.0), largest)
    return found


def upwards(x: float) -> str:
    """x with one digit, rounded up: 1.23e-7 -> 2e-07."""
    power = math.floor(math.log10(x)) if x else 0
    return f"{math.ceil(x / 10**power) * 10**power:.0e}"


def rows(figures: dict[str, str]) -> Iterator[str]:
    """The lines of both tables."""
    count = dict.fromkeys(SCHEDULERS, 0)
    for case, _ in pairs():
        count[case.name] += 1
    yield "| scheduler | predictions | combinations | compared with | largest difference |"
    yield "|---|---|---|---|---|"
    for name, rule in SCHEDULERS.items():
        how = "solved from its step" if name in SOLVED else "its own x0"
        tried = count[name] or "-"
        predictions = ", ".join(rule.predictions)
        yield f"| `{name}` | {predictions} | {tried} | {how} | {figures.get(name, '-')} |"
    yield ""
    yield "| scheduler | why it is refused |"
    yield "|---|---|"
    for name, why in REFUSED.items():
        yield f"| `{name}` | {why} |"


def document(figures: dict[str, str]) -> str:
    """docs/schedulers.md."""
    return "\n".join(
        [
            "# Schedulers",
            "",
            f"diffusers exports {len(SCHEDULERS) + len(REFUSED)} schedulers: "  # older ones fewer
            f"{len(SCHEDULERS)} are verified, "
            f"{len(REFUSED)} refused.",
            "",
            "Verified: the x0 that guidance edits is the scheduler's own, before and after the",
            "edit, at every step, for every prediction type and every setting of its config that",
            "changes the arithmetic: karras, exponential, beta and flow sigmas, timestep spacing,",
            "zero terminal SNR, clipping, thresholding, learned variance, solver order and type,",
            "stochastic variants. The difference is the largest of all, relative to the largest x0",
            "of its step, rounded up. A class that reports no x0 is compared with the one that the",
            "result of its step can only have come from.",
            "",
            "Refused: `guide` raises an error that says why and names `register_scheduler`.",
            "",
            "This file is printed by `python tests/scheduler_cases.py`; the tests compare them.",
            "",
            *rows(figures),
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(document({name: upwards(x) for name, x in measured().items()}))
