"""Mode tilt: the reward goes into the noisy latent, and the denoiser answers for the tilted prior.

For a noisy latent x = alpha·x0 + sigma·eps the posterior of x0 is the prior times
exp(eta·x0 - lambda·x0²/2) with eta = alpha·x/sigma² and lambda = alpha²/sigma², the natural
parameters of x0's likelihood. A reward that is quadratic with curvature -kappa,

    r(x0) = r(m) + s·(x0 - m) - kappa·(x0 - m)²/2,    s its slope at m,

multiplies the posterior by exp((s + kappa·m)·x0 - kappa·x0²/2): it only adds to both parameters.
So the guided estimate is the denoiser's own, at another latent x' and, where the reward curves, at
another noise level:

    alpha'²/sigma'² = alpha²/sigma² + kappa,    alpha'·x'/sigma'² = alpha·x/sigma² + s + kappa·m.

This is exact under any prior, wherever m is, with no gradient through the denoiser and no further
call of it. For kappa = 0 the level stays and x' = x + (sigma²/alpha)·s; to first order in s that is
the displacement (sigma²/alpha)·g of mode xt (Tweedie's formula: the Jacobian of the denoiser is
alpha/sigma² times the covariance of x0).

For other rewards s is the slope at the last guided estimate m, which is solved for along the way:
every step takes the slope at its estimate and the denoiser of the next is handed x'. The first
step, before which no slope is known, moves x0 as mode x0 does, by C_t·s. `reward_width` = tau, the
width of strength·reward, is kappa = 1/tau²: with it the iteration also converges where the reward
is narrower than the posterior, for there it is Newton's.

The rule is our own; Tweedie's formula and the tilted family are in Efron 2011 (section 2,
https://doi.org/10.1198/jasa.2011.tm11181).

Between two steps the denoiser gets another latent, and with a width another timestep, than the
scheduler goes on with. The pipeline's own loop gives it both: the latent is what the step before
returned, the timestep what iterating over `scheduler.timesteps` yields. The step after restores
both before the scheduler sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from clipguide.attach import noise_levels as levels
from clipguide.attach.modes.base import Edit, NextStep, Objective, StepContext, displaced
from clipguide.attach.modes.plug_in import PlugIn
from clipguide.attach.schedule import Schedule
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel, at_least_float
from clipguide.guidance.step_rule import damped


def precision(level: NoiseLevel) -> float:
    """lambda = alpha²/sigma² of x0's likelihood; sigma > 0."""
    return (level.alpha / level.sigma) ** 2


@dataclass(frozen=True)
class Slope:
    """A reward about an estimate: its slope there.

    Attributes:
        slope: s = ∂(strength·reward)/∂x0 at `at`, (B, ...).
        at: the estimate m, (B, ...).
    """

    slope: Tensor
    at: Tensor

    def rows(self, index: Tensor | slice) -> Slope:
        """Of some rows of the batch."""
        return Slope(self.slope[index], self.at[index])

    @staticmethod
    def joined(parts: Sequence[Slope]) -> Slope:
        """Of batches one after the other."""
        return Slope(torch.cat([p.slope for p in parts]), torch.cat([p.at for p in parts]))

    def tilted(self, x: Tensor, level: NoiseLevel, denoised: NoiseLevel) -> Tensor:
        """x', the latent at the level `denoised` that stands for x at `level`; alpha > 0 in it.

        The difference of their precisions is the kappa that the denoiser's level accounts for.
        """
        kappa = 0.0 if denoised == level else precision(denoised) - precision(level)
        added = self.slope + kappa * self.at if kappa else self.slope
        ratio = denoised.sigma**2 / denoised.alpha
        return ratio * level.alpha / level.sigma**2 * x + ratio * added


@dataclass(frozen=True)
class Asked:
    """At what the denoiser is asked: a timestep, and its level in the scheduler's terms."""

    timestep: Any
    level: NoiseLevel


def _table(scheduler: Any, timestep: Any, level: NoiseLevel, wanted: float) -> Asked:
    """The trained timestep whose precision is nearest to `wanted`, in logarithms."""
    alpha_bar = scheduler.alphas_cumprod.double().cpu()
    table = alpha_bar / (1 - alpha_bar)
    index = int((table.log() - torch.tensor(wanted).log()).abs().argmin())
    if table[index] <= precision(level):  # the grid is too coarse for so little
        return Asked(timestep, level)
    alpha, sigma = float(alpha_bar[index].sqrt()), float((1 - alpha_bar[index]).sqrt())
    in_k_space = level.alpha == 1
    found = NoiseLevel(1.0, sigma / alpha) if in_k_space else NoiseLevel(alpha, sigma)
    return Asked(torch.full_like(torch.as_tensor(timestep), index), found)


def _line(scheduler: Any, timestep: Any, level: NoiseLevel, wanted: float) -> Asked:
    """Flow: any sigma is a timestep."""
    sigma = 1 / (1 + wanted**0.5)
    at = torch.as_tensor(timestep, dtype=torch.float32)
    steps = float(scheduler.config.num_train_timesteps)
    return Asked(torch.full_like(at, sigma * steps), NoiseLevel(1 - sigma, sigma))


# where a scheduler's row finds its levels -> the timestep at which a denoiser has another precision
_LATER: dict[Any, Callable[[Any, Any, NoiseLevel, float], Asked]] = {
    levels.from_alphas_cumprod: _table,
    levels.from_k_sigmas: _table,
    levels.from_alpha_sigma: _table,
    levels.from_flow_sigmas: _line,
}

# schedulers whose denoisers were verified at other timesteps than the step's
ADVANCED = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
)


class TiltedPrior(PlugIn):
    """The slope of the reward at each estimate moves the latent that the denoiser sees next."""

    acts_after_step = True

    def __init__(self, objective: Objective, schedule: Schedule) -> None:
        super().__init__(objective, schedule)
        width = self.config.reward_width
        self._curvature = 0.0 if width is None else width**-2
        self.shows_timesteps = self._curvature > 0
        self.restart()

    @classmethod
    def refuse(cls, scheduler: Any, config: GuidanceConfig, arguments: list[str]) -> None:
        """Raises where the denoiser cannot be given another timestep than the step's.

        Raises:
            ValueError: a scheduler, or one of its settings, for which that was not verified; a
                pipeline that blends the latents of a mask in between, at the level of the step.
        """
        if config.reward_width is None:
            return
        given, name = scheduler.config, type(scheduler).__name__
        odd = given.get("invert_sigmas") or given.get("timestep_type", "discrete") != "discrete"
        if name not in ADVANCED or odd:
            raise ValueError(
                f"got mode 'tilt' with reward_width on {name}, expected one of "
                f"{', '.join(ADVANCED)} with plain timesteps: a width gives the denoiser a "
                "timestep of its own; reward_width=None works with every scheduler"
            )
        if "mask_image" in arguments:
            raise ValueError(
                "got mode 'tilt' with reward_width on an inpainting pipeline, expected "
                "reward_width=None: the pipeline blends the known region in at the scheduler's "
                "noise level"
            )

    def restart(self) -> None:
        """A run begins: no slope is known, nothing is handed out."""
        super().restart()
        self._asked: Asked | None = None
        self._timestep: Any = None  # the scheduler's own
        self._sample: Tensor | None = None
        self._handed: Tensor | None = None
        self._was_shown = False
        self._came_tilted = False  # whether the present step's latent did

    # ----------------------------------------------------------- what the denoiser is handed

    def handed(self, sample: Tensor, following: NextStep) -> Tensor:
        """What the denoiser is to see of the sample with which the scheduler goes on."""
        level, slope = following.level, cast("Slope | None", self.memory)
        # while a search replays, no slope is known until its last step
        if slope is None or level is None or level.alpha == 0 or not following.covered:
            return sample
        asked = self._asked = self._denoised_at(following.timestep, level)
        self._timestep, self._sample = following.timestep, sample
        tilted = slope.tilted(at_least_float(sample), level, asked.level)
        handed = self._handed = (_input_scale(level, asked.level) * tilted).to(sample.dtype)
        return handed

    def shown(self, timestep: Tensor) -> Tensor:
        """The timestep that the loop is to give the denoiser in the place of its own."""
        if self._asked is None or self._asked.timestep is self._timestep:
            return timestep
        self._was_shown = True
        return torch.as_tensor(self._asked.timestep).to(timestep.device).view_as(timestep)

    def own_timestep(self, given: Any) -> Any:
        """The scheduler's timestep for the one that `step` was given.

        Raises:
            RuntimeError: the loop gave the denoiser another timestep than it was to.
        """
        if self._asked is None or self._asked.timestep is self._timestep:
            return given
        if not self._was_shown:
            raise RuntimeError(
                "mode 'tilt' with reward_width: the denoiser was not given the timestep of its "
                "latents; expected a loop that iterates over scheduler.timesteps as set_timesteps "
                "leaves them (reward_width=None works with every loop)"
            )
        self._was_shown = False
        if torch.is_tensor(given):
            return torch.as_tensor(self._timestep).to(given.device).expand_as(given)
        return type(given)(self._timestep)

    def restored(self, out: Tensor, x: Tensor, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        """(model output, sample) for the scheduler's step: its own sample, with the tilted x0.

        What somebody wrote into the handed latents in between (inpainting) stands as written.
        """
        asked, sample, handed = self._asked, self._sample, self._handed
        self._asked = self._timestep = self._sample = self._handed = None
        self._came_tilted = handed is not None
        if asked is None or sample is None or handed is None:
            return out, x
        own = torch.where(x == handed, sample, x)
        form, other = self.schedule.form(level), self.schedule.form(asked.level)
        mean, rest = out[:, : x.shape[1]], out[:, x.shape[1] :]
        unscaled = at_least_float(x) / _input_scale(level, asked.level)
        mean = form.translated(mean, unscaled, own, other)
        return (torch.cat([mean, rest], dim=1) if rest.shape[1] else mean), own

    def _denoised_at(self, timestep: Any, level: NoiseLevel) -> Asked:
        if not self._curvature:
            return Asked(timestep, level)
        scheduler, rule = self.schedule.scheduler, self.schedule.rule
        later = _LATER[rule.level]
        if rule.level is levels.from_alpha_sigma and scheduler.config.get("use_flow_sigmas"):
            later = _line
        return later(scheduler, timestep, level, precision(level) + self._curvature)

    # ------------------------------------------------------------------------------ the step

    def edit(self, out: Tensor, x: Tensor, step: StepContext) -> Edit:
        """The slope at this estimate; the output moves only where the latent came untilted.

        That is the first one, and any before which the next step was not known: mode x0's step,
        damped by the reward's width.
        """
        mean = out[:, : x.shape[1]]
        x0, found, _ = self.evaluated(mean, x, step)
        if self.config.strength == 0:
            return Edit(out, found)
        level = step.levels.now
        delta = self.displacement(x0, found, mean, step)
        self.memory = Slope(delta / level.variance, x0.nan_to_num())
        if self._came_tilted:
            return Edit(out, found)
        delta = damped(1.0, level, self.config.reward_width) * delta
        return Edit(displaced(out, delta, step.form, found.usable), found)


def _input_scale(level: NoiseLevel, asked: NoiseLevel) -> float:
    """In k-diffusion space the network's input is x/radius, and the scheduler divides by its own.

    Elsewhere 1: it is x itself.
    """
    return level.radius / asked.radius if level.alpha == asked.alpha == 1 else 1.0
