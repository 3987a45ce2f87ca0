"""From the gradient of a reward to a displacement of x0: the step rule, per sample.

Mode x0, h = ∂reward/∂x0:    delta = s · C_t · h                 C_t = sigma²/(alpha² + sigma²)
Mode xt, g = ∂reward/∂x_t:   delta = s · (sigma²/alpha) · g       eps' = eps - s·sigma·g
Mode noisy: as xt, of a reward that is a function of x_t itself; less in the faintest signal

These are the scale "posterior"; the others are in `scale`. What each mode does around it is in its
file of `clipguide.attach.modes`.

The second line is classifier guidance (Dhariwal & Nichol 2021, Algorithm 2,
https://arxiv.org/abs/2105.05233) with the reward of the plug-in estimate x0(x_t), as in DPS (Chung
et al. 2023, Algorithm 1, https://arxiv.org/abs/2209.14687). The first line leaves the denoiser out
of the graph, as MPGD (He et al. 2024, Algorithm 1, https://arxiv.org/abs/2311.16424); C_t bounds
it, takes it to 0 at the end and makes it the same for every parametrisation.

Plug-in guidance over-steers even when all is exact: the reward is taken at the mean of x0 and not
averaged over its spread. For a reward of width tau the average has the gradient of the plug-in
divided by 1 + C_t/tau² (the convolution of two Gaussians): `damping` is that tau. Dandapanthula &
Boffi 2026 (https://arxiv.org/abs/2606.02884) damp the reward of flow models to the same end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.scale import SCALES, Levels


@dataclass(frozen=True)
class StepSizes:
    """Root mean squares per sample that a normalisation may use; (B,) each."""

    raw: Tensor  # of the raw displacement at strength 1
    x0: Tensor  # of x0
    cfg: Tensor | None  # of the displacement of x0 by classifier-free guidance
    level: NoiseLevel

    def rms_target(self) -> Tensor:
        """sqrt(C_t) · rms(x0): the displacement that strength 1 stands for."""
        return self.level.sigma_bar * self.x0


def _ratio(target: Tensor, actual: Tensor) -> Tensor:
    """target / actual, 0 where there is no gradient to scale."""
    return torch.where(actual > 0, target / actual, torch.zeros_like(actual))


def _cfg(sizes: StepSizes) -> Tensor:
    if sizes.cfg is None:
        raise ValueError(
            "got normalize='cfg' in a call without classifier-free guidance, expected "
            "guidance_scale > 1 with conditional and unconditional halves in one batch"
        )
    return sizes.cfg


# name -> factor of the raw displacement at strength 1, (B,)
NORMALIZE: dict[str, Callable[[StepSizes], Tensor]] = {
    "rms": lambda s: _ratio(s.rms_target(), s.raw),
    "raw": lambda s: torch.ones_like(s.raw),
    "cfg": lambda s: _ratio(_cfg(s), s.raw),
    "clamp": lambda s: _ratio(s.rms_target(), s.raw).clamp(max=1.0),
}


def rms(x: Tensor) -> Tensor:
    """Root mean square over everything but the batch: (B, ...) -> (B,)."""
    return x.flatten(1).square().mean(dim=1).sqrt()


def damped(strength: float, level: NoiseLevel, tau: float | None) -> float:
    """strength / (1 + C_t/tau²); the strength itself where tau is None."""
    return strength if tau is None else strength / (1 + level.variance / tau**2)


FAINTEST = 0.068
"""alpha/√(alpha²+sigma²) at the last timestep of Stable Diffusion's schedule. Flow models have less
signal in their first steps, and so have EDM and schedules that end in pure noise."""


def of_noisy_reward(level: NoiseLevel) -> float:
    """sigma²/alpha, and below the faintest signal less: there it falls with alpha, to 0.

    The gradient of the true log-likelihood of a text given x_t falls with alpha, so that the
    product with sigma²/alpha is bounded. A trained tower's does not: what it learned ends at a
    signal that can be seen, and sigma²/alpha would take over.

    Example:
        >>> level = NoiseLevel(alpha=0.001, sigma=0.999)  # the first step of a flow model
        >>> round(of_noisy_reward(level), 2), round(level.sigma**2 / level.alpha)
        (0.22, 998)
    """
    signal = level.alpha / level.radius
    return level.sigma**2 / level.alpha * min(signal / FAINTEST, 1.0) ** 2


# mode -> the factor of its gradient for scale "posterior"
POSTERIOR: dict[str, Callable[[NoiseLevel], float]] = {
    "x0": lambda level: level.variance,
    "xt": lambda level: level.sigma**2 / level.alpha,
    "noisy": of_noisy_reward,
}


def normalized(raw: Tensor, sizes: StepSizes, strength: float, normalize: str) -> Tensor:
    """strength · n · raw, sample by sample, n the factor that a normalisation gives; (B, ...)."""
    factor = strength * NORMALIZE[normalize](sizes)  # (B,)
    return raw * factor.view(-1, *[1] * (raw.ndim - 1))


def displacement(
    gradient: Tensor,
    x0: Tensor,
    level: NoiseLevel,
    *,
    strength: float,
    mode: str = "x0",
    normalize: str = "rms",
    damping: float | None = None,
    scale: str = "posterior",
    cfg: Tensor | None = None,
    following: NoiseLevel | None = None,
) -> Tensor:
    """The displacement delta of x0 that climbs the reward, sample by sample.

    Args:
        gradient: ∂reward/∂x0 (mode "x0") or ∂reward/∂x_t ("xt", "noisy"), (B, ...).
        x0: the predicted clean latent, (B, ...).
        level: alpha and sigma of the step; alpha > 0 in modes "xt" and "noisy".
        strength, mode, normalize, damping, scale: as in `GuidanceConfig`.
        cfg: displacement of x0 by classifier-free guidance, (B, ...); only for "cfg".
        following: the noise level after the step; only for scale "increase".

    Example:
        >>> x0, gradient = torch.randn(2, 1, 4, 8, 8)
        >>> delta = displacement(gradient, x0, NoiseLevel(0.6, 0.8), strength=0.1)
        >>> round(float(delta.square().mean().sqrt() / x0.square().mean().sqrt()), 3)  # s·√C_t
        0.08
    """
    raw = SCALES[scale](Levels(level, following), POSTERIOR[mode](level)) * gradient
    sizes = StepSizes(rms(raw), rms(x0), None if cfg is None else rms(cfg), level)
    return normalized(raw, sizes, damped(strength, level, damping), normalize)
