"""x0 from what a denoiser predicts, and back: inverse pairs, one line per prediction type.

With the noisy latent x = alpha·x0 + sigma·eps, every prediction type is linear,

    x0 = A·x + B·out        and back        out' = out + (x0' - x0) / B,

so a displacement of x0 becomes a displacement of the model output and nothing else of a scheduler
need be known. r = sqrt(alpha² + sigma²) is 1 for variance-preserving schedulers; in k-diffusion
space (alpha = 1) the denoiser sees x/r, which is all that its formulas differ in.

Sources: epsilon, Ho et al. 2020 (Eq. 15, https://arxiv.org/abs/2006.11239); v, Salimans & Ho 2022
(Appendix D, https://arxiv.org/abs/2202.00512); k-diffusion space, Karras et al. 2022 (Eq. 7,
https://arxiv.org/abs/2206.00364); flow, Lipman et al. 2023 (https://arxiv.org/abs/2210.02747).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class NoiseLevel:
    """x = alpha·x0 + sigma·eps, eps ~ N(0, I); alpha and sigma at least 0, not both 0."""

    alpha: float
    sigma: float

    @property
    def radius(self) -> float:
        """sqrt(alpha² + sigma²), the standard deviation of x for unit-variance data."""
        return math.hypot(self.alpha, self.sigma)

    @property
    def sigma_bar(self) -> float:
        """sigma / sqrt(alpha² + sigma²) in [0, 1]: 1 is pure noise, in every parametrisation."""
        return self.sigma / self.radius

    @property
    def variance(self) -> float:
        """C_t = sigma²/(alpha² + sigma²): the variance of x0 given x for unit-variance data."""
        return self.sigma_bar**2


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.copysign(math.inf, numerator)


# prediction type -> (A, B); infinite where x0 cannot be known (epsilon at alpha = 0)
COEFFICIENTS: dict[str, Callable[[NoiseLevel], tuple[float, float]]] = {
    "epsilon": lambda n: (_quotient(1.0, n.alpha), _quotient(-n.sigma, n.alpha)),
    "v_prediction": lambda n: (n.alpha / n.radius**2, -n.sigma / n.radius),
    "sample": lambda n: (0.0, 1.0),
    "flow_prediction": lambda n: (1 / (n.alpha + n.sigma), -n.sigma / (n.alpha + n.sigma)),
}


@dataclass(frozen=True)
class Parameterization:
    """x0 = a·x + b·out at one noise level; `displace` is its inverse in `out`.

    Example:
        >>> x, out, delta = torch.randn(3, 1, 4, 8, 8)
        >>> p = parameterization("epsilon", NoiseLevel(alpha=0.6, sigma=0.8))
        >>> edited = p.displace(out, delta)
        >>> torch.allclose(p.x0(x, edited), p.x0(x, out) + delta, atol=1e-5)
        True
    """

    a: float
    b: float

    @property
    def invertible(self) -> bool:
        """Whether x0 is finite and an edit of the model output can move it."""
        return math.isfinite(self.a) and math.isfinite(self.b) and self.b != 0

    def x0(self, x: Tensor, out: Tensor) -> Tensor:
        """The clean latent the model output stands for, in float32 or better; shapes equal."""
        return self.a * at_least_float(x) + self.b * at_least_float(out)

    def displace(self, out: Tensor, delta: Tensor) -> Tensor:
        """The model output whose x0 is `delta` further; in the dtype of `out`."""
        return (at_least_float(out) + delta / self.b).to(out.dtype)

    def translated(self, out: Tensor, seen: Tensor, x: Tensor, other: Parameterization) -> Tensor:
        """The output that gives x here the x0 which `out` gives `seen` there (`other`)."""
        moved = (other.a * at_least_float(seen) - self.a * at_least_float(x)) / self.b
        return (other.b / self.b * at_least_float(out) + moved).to(out.dtype)


def at_least_float(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32; anything wider as it is."""
    return x if x.dtype.itemsize >= 4 else x.float()


def parameterization(prediction: str, level: NoiseLevel) -> Parameterization:
    """The pair (A, B) of a prediction type at a noise level.

    Raises:
        ValueError: a prediction type not in COEFFICIENTS.
    """
    if prediction not in COEFFICIENTS:
        raise ValueError(f"got prediction type {prediction!r}, expected one of {[*COEFFICIENTS]}")
    a, b = COEFFICIENTS[prediction](level)
    return Parameterization(a, b)
