"""Guidance against a posterior known in closed form: how far the samples of each method are off.

    python -m clipguide.evaluation.closed_form [--images 512] [--calls 100] [--tune]

The denoiser is a Gaussian mixture's own and the reward a log-likelihood, so the images that
guidance should draw have a known distribution, prior·exp(reward). Printed are, for every method,
the distance of the mean of its images from the posterior's in posterior standard deviations, and
the ratio of the variances: (0, 1) is exact. Every method has the same number of denoiser calls: one
that takes each step twice takes half as many. Published methods are at the strength, of STRENGTHS,
that brings them closest to (0, 1) for that prior and reward (`--tune` searches again); ours are at
strength 1. A method is run with a solver of order 2 where it can be: those that change the sample
after the step, or take it again, are published on steps of order 1 and need them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.evaluation.gaussian_mixture import (
    ExactPipeline,
    Linear,
    Mixture,
    Prediction,
    Quadratic,
)
from clipguide.guidance import presets
from clipguide.guidance.config import GuidanceConfig

Likelihood = Linear | Quadratic
Rule = Callable[[float, float | None], GuidanceConfig]
"""(strength, width of the reward or None) -> settings."""
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "flow_prediction")


@dataclass(frozen=True)
class Problem:
    """A prior and a reward."""

    prior: Mixture
    reward: Likelihood


_ONE = Mixture((1.0,), (0.0,), (1.1,))
_THREE = Mixture((0.5, 0.3, 0.2), (-1.2, 0.4, 1.5), (0.45, 0.35, 0.5))
PROBLEMS: dict[str, Problem] = {
    "Gaussian, quadratic": Problem(_ONE, Quadratic(1.5, 0.7)),
    "Gaussian, linear": Problem(_ONE, Linear(0.9)),
    "mixture, quadratic": Problem(_THREE, Quadratic(1.0, 0.8)),
    "mixture, linear": Problem(_THREE, Linear(0.9)),
}


@dataclass(frozen=True)
class Method:
    """A rule as a function of its strength and of the reward's width.

    Attributes:
        config: (strength, width) -> settings.
        eta: of DDIM; 1 for methods published on ancestral steps. Flow steps have none.
        order: of the solver.
        best: problem -> the strength of STRENGTHS that was found best; none: strength 1.
    """

    config: Rule
    eta: float = 0.0
    best: tuple[float, ...] = ()
    order: int = 1

    def strength(self, problem: str) -> float:
        """The strength to use."""
        return self.best[[*PROBLEMS].index(problem)] if self.best else 1.0


def _plain(mode: str) -> Rule:
    return lambda s, width: GuidanceConfig(s, mode=mode, normalize="raw")


def _damped(mode: str) -> Rule:
    return lambda s, width: GuidanceConfig(s, mode=mode, normalize="raw", damping=width)


def _as_it_is(x0: Tensor) -> Tensor:
    """The decoder: pixels are images."""
    return x0


OURS: dict[str, Method] = {
    "x0": Method(_plain("x0"), order=2),
    "xt": Method(_plain("xt"), order=2),
    "x0, damped": Method(_damped("x0"), order=2),
    "xt, damped": Method(_damped("xt"), order=2),
    "tilt": Method(presets.tilted, order=2),
}
PUBLISHED: dict[str, Method] = {
    "dps": Method(lambda s, width: presets.dps(s), 1.0, (0.017, 0.04, 0.024, 0.05)),
    "freedom": Method(lambda s, width: presets.freedom(s, 2), 1.0, (0.024, 0.06, 0.034, 0.07)),
    "mpgd": Method(lambda s, width: presets.mpgd(s), 0.0, (0.012, 0.028, 0.014, 0.034)),
    "universal": Method(
        lambda s, width: presets.universal(s, repeats=2), 0.0, (0.5, 0.95, 0.55, 0.9)
    ),
    "universal, once": Method(
        lambda s, width: presets.universal(s), 0.0, (0.45, 1.0, 0.55, 1.1), order=2
    ),
    "lgd": Method(lambda s, width: presets.lgd(s), 0.0, (0.85, 1.0, 1.0, 1.1), order=2),
    "lgd, order 1": Method(lambda s, width: presets.lgd(s), 0.0, (0.8, 1.0, 1.0, 1.0)),
    "tfg": Method(
        lambda s, width: presets.tfg(s, s / 4, samples=4, iterations=2),
        1.0,
        (0.012, 0.03, 0.015, 0.03),
    ),
    "flowchef": Method(lambda s, width: presets.flowchef(s), 0.0, (0.005, 0.012, 0.007, 0.012)),
}
METHODS = PUBLISHED | OURS
# fmt: off
STRENGTHS = (
    0.004, 0.005, 0.006, 0.007, 0.0085, 0.01, 0.012, 0.014, 0.017, 0.02, 0.024,
    0.028, 0.034, 0.04, 0.05, 0.06, 0.07, 0.085,
    0.1, 0.12, 0.14, 0.17, 0.2, 0.24, 0.28, 0.34, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7,
    0.75, 0.8, 0.85, 0.9, 0.95, 1, 1.1, 1.2,
)
# fmt: on


@dataclass(frozen=True)
class Result:
    """The samples of a method on a problem, against the exact posterior.

    Attributes:
        mean_error: |mean - exact mean| in exact standard deviations.
        variance_ratio: variance / exact variance.
    """

    mean_error: float
    variance_ratio: float

    @property
    def distance(self) -> float:
        """From the ideal (0, 1), Euclidean; infinite for images that are not finite."""
        far = math.hypot(self.mean_error, self.variance_ratio - 1)
        return far if math.isfinite(far) else math.inf


def measure(
    problem: Problem,
    config: GuidanceConfig | None,
    *,
    prediction: Prediction = "epsilon",
    eta: float = 0.0,
    order: int = 1,
    images: int = 512,
    calls: int = 100,
    seed: int = 0,
) -> Result:
    """Runs `guide` over the exact pipeline and compares with the exact posterior.

    Args:
        config: the rule; None draws from the prior, unguided, and compares with the prior.
        prediction: what the denoiser predicts, and the scheduler steps.
        eta, order: as in `Method`.
        calls: denoiser calls per image.
    """
    pipe = ExactPipeline.of(problem.prior, prediction, order)
    generator = torch.Generator().manual_seed(seed)
    if config is None:
        exact, samples = problem.prior, pipe(images, calls, eta=eta, generator=generator)
    else:
        exact = problem.reward.posterior(problem.prior)
        steps = calls // (1 + config.recurrence)
        with guide(pipe, problem.reward, config=config, decoder=_as_it_is):
            samples = pipe(images, steps, eta=eta, generator=generator)
    mean, variance = exact.moments()
    off = abs(float(samples.mean()) - mean) / math.sqrt(variance)
    return Result(off, float(samples.var(correction=0)) / variance)


def run(
    problem: Problem,
    method: Method,
    strength: float,
    *,
    prediction: Prediction = "epsilon",
    images: int = 512,
    calls: int = 100,
) -> Result:
    """The result of a method on a problem at a strength."""
    config = method.config(strength, problem.reward.width)
    kind: dict[str, Any] = {"eta": method.eta, "order": method.order, "prediction": prediction}
    return measure(problem, config, images=images, calls=calls, **kind)


def best_strength(
    problem: Problem, method: Method, strengths: Iterable[float] = STRENGTHS, images: int = 256
) -> tuple[float, Result]:
    """The strength that brings a method closest to (0, 1) on epsilon steps, and its result."""
    found = [(s, run(problem, method, s, images=images)) for s in strengths]
    return min(found, key=lambda pair: pair[1].distance)


def table(images: int, calls: int) -> Iterable[str]:
    """Lines of Markdown: method by problem and prediction, mean error / variance ratio."""
    for name, problem in PROBLEMS.items():
        yield f"\n{name}: mean error / variance ratio, ideal 0 / 1\n"
        yield "| method | strength | epsilon | v | flow | distance, epsilon |"
        yield "|---|---|---|---|---|---|"
        for label, method in METHODS.items():
            strength = method.strength(name)
            results = [
                run(problem, method, strength, prediction=p, images=images, calls=calls)
                for p in PREDICTIONS
            ]
            cells = [f"{r.mean_error:.3f} / {r.variance_ratio:.3f}" for r in results]
            line = " | ".join([label, f"{strength:g}", *cells, f"{results[0].distance:.3f}"])
            yield f"| {line} |"


def main() -> None:
    """Prints the table, or the strengths found best."""
    parser = argparse.ArgumentParser(description="Guidance against an exact posterior")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--tune", action="store_true", help="search the published strengths again")
    given = parser.parse_args()
    write = parser._print_message  # pyright: ignore[reportPrivateUsage]  stdout without print
    if given.tune:
        for label, method in PUBLISHED.items():
            best = [best_strength(problem, method) for problem in PROBLEMS.values()]
            found = ", ".join(f"{s:g}" for s, _ in best)
            write(f"{label}: {found}  distances {[round(r.distance, 3) for _, r in best]}\n")
        return
    for line in table(given.images, given.calls):
        write(line + "\n")


if __name__ == "__main__":
    main()
