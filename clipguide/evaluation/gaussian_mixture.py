"""A prior for which everything is known: denoiser, posterior under a reward, and a pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from clipguide.guidance.parameterization import NoiseLevel, parameterization

Prediction = Literal["epsilon", "v_prediction", "flow_prediction"]


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal distributions of one variable; every pixel is drawn from it apart."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and variances, (K,) float64 each."""
        variances = [s**2 for s in self.deviations]
        rows = (self.weights, self.means, variances)
        w, m, v = (torch.tensor(row, dtype=torch.float64) for row in rows)
        return w, m, v

    def moments(self) -> tuple[float, float]:
        """Mean and variance."""
        w, m, v = self.parts()
        mean = float((w * m).sum())
        return mean, float((w * (v + m**2)).sum()) - mean**2

    def x0(self, x: Tensor, level: NoiseLevel) -> Tensor:
        """The posterior mean of x0 given x = alpha·x0 + sigma·eps, exactly; any shape."""
        w, m, v = self.parts()
        spread = level.alpha**2 * v + level.sigma**2  # (K,)
        off = x.unsqueeze(-1) - level.alpha * m  # (..., K)
        odds = (w.log() - spread.log() / 2 - off**2 / (2 * spread)).softmax(dim=-1)
        return (odds * (m + level.alpha * v / spread * off)).sum(dim=-1)


@dataclass(frozen=True)
class Linear:
    """r(x0) = slope·x0."""

    slope: float

    def __call__(self, images: Tensor) -> Tensor:
        return (self.slope * images).flatten(1).sum(dim=1)  # (B,)

    @property
    def width(self) -> float | None:
        """Of the reward as a Gaussian: none."""
        return None

    def posterior(self, prior: Mixture) -> Mixture:
        """prior·exp(r), normalised."""
        w, m, v = prior.parts()
        log_weight = w.log() + self.slope * m + self.slope**2 * v / 2
        return _mixture(log_weight, m + self.slope * v, v)


@dataclass(frozen=True)
class Quadratic:
    """r(x0) = -(x0 - target)²/(2·width²)."""

    target: float
    width: float

    def __call__(self, images: Tensor) -> Tensor:
        return (-((images - self.target) ** 2) / (2 * self.width**2)).flatten(1).sum(dim=1)

    def posterior(self, prior: Mixture) -> Mixture:
        """prior·exp(r), normalised."""
        w, m, v = prior.parts()
        total = v + self.width**2
        log_weight = w.log() - total.log() / 2 - (m - self.target) ** 2 / (2 * total)
        share = v / total
        return _mixture(log_weight, m + share * (self.target - m), share * self.width**2)


def _mixture(log_weights: Tensor, means: Tensor, variances: Tensor) -> Mixture:
    weights: list[float] = log_weights.softmax(dim=0).tolist()
    return Mixture((*weights,), (*means.tolist(),), (*variances.sqrt().tolist(),))


class ExactDenoiser(nn.Module):
    """The mixture's own denoiser in a prediction type: what a perfectly trained network returns."""

    def __init__(self, prior: Mixture, prediction: Prediction, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.prior, self.prediction = prior, prediction
        self.register_buffer("alphas_cumprod", alphas_cumprod)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Model output at a timestep: of 1,000 of diffusion, or 1,000·sigma of flow."""
        if self.prediction == "flow_prediction":
            sigma = float(timestep) / 1000
            level = NoiseLevel(1 - sigma, sigma)
        else:
            alphas: Any = self.alphas_cumprod
            bar = float(alphas[int(timestep)])
            level = NoiseLevel(math.sqrt(bar), math.sqrt(1 - bar))
        rule = parameterization(self.prediction, level)
        return (self.prior.x0(x, level) - rule.a * x) / rule.b


class ExactPipeline(DiffusionPipeline):
    """Pixels in float64 from an exact denoiser.

    Of order 1 (DDIM steps, or Euler steps of a flow) or 2 (multistep DPM-Solver++), one denoiser
    call per step either way.

    Example:
        >>> ExactPipeline.of(Mixture((1.0,), (0.0,), (1.1,)), "epsilon")(64, 100).flatten()
    """

    def __init__(self, unet: ExactDenoiser, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @classmethod
    def of(cls, prior: Mixture, prediction: Prediction, order: int = 1) -> ExactPipeline:
        """The pipeline of a prior in a prediction type, with a solver of an order."""
        flow = prediction == "flow_prediction"
        given: dict[str, Any] = {"timestep_spacing": "trailing", "prediction_type": prediction}
        if order == 2:
            scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=flow, **given)
        elif flow:
            scheduler = FlowMatchEulerDiscreteScheduler()
        else:
            scheduler = DDIMScheduler(clip_sample=False, **given)
        return cls(ExactDenoiser(prior, prediction, DDIMScheduler().alphas_cumprod), scheduler)

    def prepare_latents(self, count: int, generator: Any = None) -> Tensor:
        """The quantiles of N(0, 1), (count, 1, 1, 1): the same for everyone, and no sampling error.

        Scaled to unit variance, which quantiles fall short of; shuffled, so that images of
        neighbouring seeds do not start from neighbouring quantiles.
        """
        ranks = torch.randperm(count, generator=torch.Generator().manual_seed(0)).double()
        quantiles = torch.special.ndtri((ranks + 0.5) / count)
        return (quantiles / quantiles.std(correction=0)).view(-1, 1, 1, 1)

    @torch.no_grad()
    def __call__(
        self, count: int, steps: int, *, eta: float = 0.0, generator: Any = None
    ) -> Tensor:
        """Samples (count, 1, 1, 1); eta = 1 is ancestral sampling (of DDIM's steps only)."""
        scheduler: Any = self.components["scheduler"]
        unet: Any = self.components["unet"]
        scheduler.set_timesteps(steps)
        stochastic = isinstance(self.components["scheduler"], DDIMScheduler)
        extra: dict[str, Any] = {"eta": eta} if stochastic else {}
        x = self.prepare_latents(count, generator)
        for timestep in scheduler.timesteps:
            out = unet(x, timestep)
            x = scheduler.step(out, timestep, x, generator=generator, return_dict=False, **extra)[0]
        return x
