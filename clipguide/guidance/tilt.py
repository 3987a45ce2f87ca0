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
step, before which no slope is known, moves x0 as mode x0 does, by C_t·s. `damping` =
tau, the width of strength·reward, is kappa = 1/tau²: with it the iteration also converges where the
reward is narrower than the posterior, for there it is Newton's.

The rule is our own; Tweedie's formula and the tilted family are in Efron 2011 (section 2,
https://doi.org/10.1198/jasa.2011.tm11181).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.guidance.parameterization import NoiseLevel


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
