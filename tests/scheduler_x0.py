"""What each scheduler itself calls x0: reported, converted, or solved from what a step returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NOISE_SEED = 17
"""Of the generator that every step is given."""


def _nothing(scheduler: Any, t: Tensor, level: Any) -> Any:
    return None


def _same(scheduler: Any, x0: Tensor) -> Tensor:
    return x0


@dataclass(frozen=True)
class Own:
    """How to read a scheduler's x0.

    Attributes:
        x0: (scheduler after the step, its result, converted outputs so far, x, state) -> x0.
        before: (scheduler, timestep, level) before the step -> state.
        finish: what the decoder is given, of the x0 that the scheduler reports.
    """

    x0: Callable[[Any, Any, list[Tensor], Tensor, Any], Tensor]
    before: Callable[[Any, Tensor, Any], Any] = _nothing
    finish: Callable[[Any, Tensor], Tensor] = _same


def _reported(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any) -> Tensor:
    return result.pred_original_sample


def predicts_noise(scheduler: Any) -> bool:
    """Whether convert_model_output returns eps and not x0."""
    config = scheduler.config
    return (
        type(scheduler).__name__ == "DEISMultistepScheduler"
        or config.get("algorithm_type") in {"dpmsolver", "sde-dpmsolver", "noise_prediction"}
        or config.get("predict_x0") is False
    )


def _converted(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any) -> Tensor:
    """x0, or the eps that with x says what x0 is."""
    if not predicts_noise(scheduler):
        return seen[-1]
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[scheduler.step_index - 1])
    return (x - sigma.double() * seen[-1]) / alpha.double()


def _denoised(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, t: Any) -> Tensor:
    """LCM returns c_out·x0 + c_skip·x."""
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
    return (result.denoised - c_skip.double() * x) / c_out.double()


Line = tuple[float, float, float, float]


def _on_line(x: Tensor, then: Tensor, line: Line) -> Tensor:
    """x0 of x = a·x0 + b·eps and then = c·x0 + d·eps."""
    a, b, c, d = line
    return (then * b - x * d) / (c * b - a * d)


def _from_line(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, line: Line) -> Tensor:
    return _on_line(x, getattr(result, "pred_noised_sample", result.prev_sample), line)


def _from_bars(now: Any, then: Any) -> Line:
    a, c = float(now), float(then)
    return math.sqrt(a), math.sqrt(1 - a), math.sqrt(c), math.sqrt(1 - c)


def _pndm_line(scheduler: Any, t: Tensor, level: Any) -> Line:
    """Without a history PNDM's step is DDIM's."""
    scheduler.ets.clear()
    scheduler.counter = 0
    then = int(t) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    bars = scheduler.alphas_cumprod
    return _from_bars(bars[int(t)], bars[then] if then >= 0 else scheduler.final_alpha_cumprod)


def _ipndm_line(scheduler: Any, t: Tensor, level: Any) -> Line:
    """Without a history IPNDM's step is DDIM's."""
    scheduler.ets.clear()
    i = scheduler.index_for_timestep(t) if scheduler.step_index is None else scheduler.step_index
    table = (
        scheduler.alphas[i],
        scheduler.betas[i],
        scheduler.alphas[i + 1],
        scheduler.betas[i + 1],
    )
    a, b, c, d = (float(value) for value in table)
    return a, b, c, d


def _tcd_line(scheduler: Any, t: Tensor, level: Any) -> Line:
    """TCD goes to floor((1 - eta)·t') and says where it got; eta is 0.3."""
    following = scheduler.timesteps[scheduler.timesteps < t]
    then = int(following[0]) if len(following) else 0
    bars = scheduler.alphas_cumprod
    return _from_bars(bars[int(t)], bars[math.floor(0.7 * then)])


def _table(scheduler: Any) -> tuple[float, float]:
    """sigma of the step that was taken, and the one it went to."""
    i = scheduler.step_index - 1
    now, then = scheduler.sigmas[i : i + 2].double()
    return float(now), float(then)


def _from_velocity(
    scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any
) -> Tensor:
    """Euler: x' = x + (sigma' - sigma)·v, and x0 is where sigma' would be 0 (or 1, inverted)."""
    now, then = _table(scheduler)
    end = 1.0 if scheduler.config.get("invert_sigmas") else 0.0
    if scheduler.config.get("stochastic_sampling"):
        return _from_redrawn(scheduler, result, seen, x, state)
    return x + (result.prev_sample - x) * (end - now) / (then - now)


def _from_redrawn(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any) -> Tensor:
    """x' = (1 - sigma')·x0 + sigma'·noise, with the generator's noise."""
    _, then = _table(scheduler)
    generator = torch.Generator().manual_seed(NOISE_SEED)
    euler = "Euler" in type(scheduler).__name__  # draws in float32, the other in the output's
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float32 if euler else x.dtype)
    return (result.prev_sample - then * noise) / (1 - then)


def _heun_state(scheduler: Any, t: Tensor, level: Any) -> Any:
    if scheduler.state_in_first_order:
        return None
    return scheduler.sample, scheduler.prev_derivative, scheduler.dt, level.sigma


def _from_heun(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any) -> Tensor:
    """The second stage averages two velocities: the new one is 2·mean - old."""
    if state is None:
        return _from_velocity(scheduler, result, seen, x, state)
    sample, old, dt, _ = state
    new = 2 * (result.prev_sample - sample) / dt - old
    return x - float(scheduler.sigmas[scheduler.step_index - 1]) * new


def _from_ancestral(
    scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any
) -> Tensor:
    """x' = r·x + (1 - r)·x0 without noise."""
    now, then = _table(scheduler)
    if then == 0:
        return result.prev_sample
    down = then * (1 + (then / now - 1) * scheduler.config.eta)
    return _mixed(result.prev_sample, x, down / now)


def _from_ratio(scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any) -> Tensor:
    """x' = r·x + (1 - r)·x0 with r = sigma'/sigma."""
    now, then = _table(scheduler)
    return _mixed(result.prev_sample, x, then / now)


def _mixed(mixture: Tensor, x: Tensor, r: float) -> Tensor:
    return (mixture - r * x) / (1 - r)


def _without_noise(
    scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, state: Any
) -> Tensor:
    """Consistency models at s_noise = 0: the next sample is x0."""
    return result.prev_sample


def _wuerstchen_bars(scheduler: Any, t: Tensor, level: Any) -> tuple[float, float, bool]:
    """alphas_cumprod now and then, by the paper's formula and not by the class's method."""
    then = scheduler.timesteps[(scheduler.timesteps == t).nonzero()[0, 0] + 1]
    s = 0.008

    def bar(u: Tensor) -> float:
        start = math.cos(s / (1 + s) * math.pi / 2) ** 2
        found = math.cos((float(u) + s) / (1 + s) * math.pi / 2) ** 2 / start
        return min(max(found, 0.0001), 0.9999)

    return bar(t), bar(then), bool(then != 0)


def _from_posterior(
    scheduler: Any, result: Any, seen: list[Tensor], x: Tensor, bars: Any
) -> Tensor:
    """DDPM's posterior mean (Ho et al. 2020, Eq. 7) solved for x0."""
    now, then, noisy = bars
    alpha = now / then
    generator = torch.Generator().manual_seed(NOISE_SEED)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    mean = result.prev_sample
    if noisy:
        mean = mean - math.sqrt((1 - alpha) * (1 - then) / (1 - now)) * noise
    of_x0 = math.sqrt(then) * (1 - alpha) / (1 - now)
    of_x = math.sqrt(alpha) * (1 - then) / (1 - now)
    return (mean - of_x * x) / of_x0


def _timestep(scheduler: Any, t: Tensor, level: Any) -> Tensor:
    return t


_SOLVED: dict[str, Own] = {
    "LCMScheduler": Own(_denoised, _timestep),
    "PNDMScheduler": Own(_from_line, _pndm_line),
    "IPNDMScheduler": Own(_from_line, _ipndm_line),
    "TCDScheduler": Own(_from_line, _tcd_line),
    "DDPMWuerstchenScheduler": Own(_from_posterior, _wuerstchen_bars),
    "CMStochasticIterativeScheduler": Own(_without_noise),
    "FlowMatchEulerDiscreteScheduler": Own(_from_velocity),
    "FlowMatchHeunDiscreteScheduler": Own(_from_heun, _heun_state),
    "FlowMatchLCMScheduler": Own(_from_redrawn),
    "LTXEulerAncestralRFScheduler": Own(_from_ancestral),
    "MiniMaxH3Scheduler": Own(_from_ratio),
}
SOLVED = frozenset(_SOLVED)

OWN: dict[str, Own] = {
    **_SOLVED,
    **dict.fromkeys(
        [
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DEISMultistepScheduler",
            "UniPCMultistepScheduler",
            "SASolverScheduler",
            "EDMDPMSolverMultistepScheduler",
            "CosineDPMSolverMultistepScheduler",
        ],
        Own(_converted),
    ),
    **dict.fromkeys(
        [
            "DDIMScheduler",
            "DDIMParallelScheduler",
            "DDPMScheduler",
            "DDPMParallelScheduler",
            "UnCLIPScheduler",
            "RePaintScheduler",
            "CogVideoXDDIMScheduler",
            "CogVideoXDPMScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "HeunDiscreteScheduler",
            "LMSDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "DPMSolverSDEScheduler",
            "EDMEulerScheduler",
        ],
        Own(_reported),
    ),
    "SCMScheduler": Own(_reported, finish=lambda s, x0: x0 / s.config.sigma_data),
}
