"""Mode tilt: the reward's slope goes into the noisy latent, and the denoiser does the rest.

For a noisy latent x = alpha·x0 + sigma·eps, the posterior of x0 is the prior times
exp(alpha·x·x0/sigma² - alpha²·x0²/(2·sigma²)). A reward of constant slope s multiplies it by
exp(s·x0), which is the posterior at another latent,

    p(x0 | x)·exp(s·x0)  ∝  p(x0 | x + (sigma²/alpha)·s),

so the guided estimate of x0 is the denoiser's own, D(x + (sigma²/alpha)·s): exact for a linear
reward under any prior, with no gradient through the denoiser and no further call of it. To first
order in s it is the displacement (sigma²/alpha)·g of mode xt (Tweedie's formula: the Jacobian of D
is alpha/sigma² times the covariance of x0).

For a reward that curves, s is its slope at the guided estimate itself,

    x0* = D(x + (sigma²/alpha)·s),    s = strength·∂reward/∂x0 (x0*),

which is exact for a quadratic reward under a Gaussian prior, where damping has to know the
prior's variance to be. The equation is solved along the way: every step takes the slope at its
estimate and hands the shifted latent to the denoiser of the next. Plain substitution diverges where
the reward is narrower than the posterior, C_t > tau²; `damping` = tau relaxes it by
1/(1 + C_t/tau²), Newton's step for a reward of that width. It changes how fast s is found, not s.

The rule is our own; Tweedie's formula and the tilted family are in Efron 2011 (section 2,
https://doi.org/10.1198/jasa.2011.tm11181).
"""

from __future__ import annotations

from torch import Tensor

from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.step_rule import damped


def relaxed(
    slope: Tensor | None, wanted: Tensor, level: NoiseLevel, damping: float | None
) -> Tensor:
    """The slope after a step that found `wanted` at its estimate; from 0 where there was none."""
    share = damped(1.0, level, damping)
    return share * wanted if slope is None else slope + share * (wanted - slope)


def shift(slope: Tensor, level: NoiseLevel) -> Tensor:
    """What is added to the noisy latent at `level` (alpha > 0), (B, ...)."""
    return level.sigma**2 / level.alpha * slope
