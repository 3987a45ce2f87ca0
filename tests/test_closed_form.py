"""Guidance against exact posteriors: the yardstick itself, and what every method makes of it."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clipguide.evaluation.closed_form import (
    METHODS,
    OURS,
    PREDICTIONS,
    PROBLEMS,
    PUBLISHED,
    Problem,
    Result,
    measure,
    run,
    table,
)
from clipguide.evaluation.gaussian_mixture import Linear, Mixture, Quadratic
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel

IMAGES = 64
GRID = torch.linspace(-12, 12, 24001, dtype=torch.float64)


def density(prior: Mixture) -> Tensor:
    """On the grid, the slow way."""
    parts = zip(prior.weights, prior.means, prior.deviations, strict=True)
    return sum(
        (w / (s * math.sqrt(2 * math.pi)) * torch.exp(-((GRID - m) ** 2) / (2 * s**2)))
        for w, m, s in parts
    )  # type: ignore[return-value]


def grid_moments(weight: Tensor) -> tuple[float, float]:
    share = weight / weight.sum()
    mean = float((share * GRID).sum())
    return mean, float((share * (GRID - mean) ** 2).sum())


@pytest.mark.parametrize("name", [*PROBLEMS])
def test_the_posterior_is_the_one_of_numerical_integration(name: str) -> None:
    prior, reward = PROBLEMS[name].prior, PROBLEMS[name].reward
    expected = grid_moments(density(prior) * reward(GRID.view(-1, 1)).exp())
    assert reward.posterior(prior).moments() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_denoiser_is_the_one_of_numerical_integration() -> None:
    prior, level = PROBLEMS["mixture, linear"].prior, NoiseLevel(0.6, 0.8)
    for x in (-2.0, 0.1, 1.5):
        likelihood = torch.exp(-((x - level.alpha * GRID) ** 2) / (2 * level.sigma**2))
        expected = grid_moments(density(prior) * likelihood)[0]
        assert float(prior.x0(torch.tensor(x).double(), level)) == pytest.approx(expected, rel=1e-6)


def test_a_linear_reward_tilts_the_denoiser() -> None:
    """The identity of mode tilt: D(x + sigma²/alpha·s) is the posterior mean under exp(s·x0)."""
    prior, level, slope = PROBLEMS["mixture, linear"].prior, NoiseLevel(0.6, 0.8), 0.9
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    tilted = Linear(slope).posterior(prior).x0(x, level)
    moved = prior.x0(x + level.sigma**2 / level.alpha * slope, level)
    torch.testing.assert_close(moved, tilted, rtol=1e-9, atol=1e-9)


@functools.cache
def result(name: str, method: str, prediction: str = "epsilon") -> Result:
    problem, chosen, strength = PROBLEMS[name], METHODS[method], METHODS[method].strength(name)
    kind: Any = prediction
    return run(problem, chosen, strength, prediction=kind, images=IMAGES)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_unguided_images_are_the_priors(prediction: str) -> None:
    problem = PROBLEMS["mixture, linear"]
    drawn = measure(problem, None, prediction=prediction, images=IMAGES)  # type: ignore[arg-type]
    assert drawn.mean_error < 0.02
    assert drawn.variance_ratio == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("method", [*OURS])
def test_every_parametrisation_agrees(method: str) -> None:
    for name in ("Gaussian, quadratic", "mixture, linear"):
        eps, v, flow = (result(name, method, p) for p in PREDICTIONS)
        assert v.mean_error == pytest.approx(eps.mean_error, abs=1e-4)
        assert v.variance_ratio == pytest.approx(eps.variance_ratio, abs=1e-4)
        # another schedule of 100 steps: they differ by its discretisation
        assert flow.mean_error == pytest.approx(eps.mean_error, abs=0.05)
        assert flow.variance_ratio == pytest.approx(eps.variance_ratio, abs=0.05)


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_tilted_rule_is_the_closest_of_all(name: str) -> None:
    """At as many denoiser calls, and without being tuned, as the published methods are."""
    closest = min(result(name, m).distance for m in PUBLISHED)
    ties = 5e-4 if name == "Gaussian, linear" else 0.0  # where the exact gradient is exact too
    assert result(name, "tilt").distance < closest + ties


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_tilted_rule_is_exact(name: str, prediction: str) -> None:
    assert result(name, "tilt", prediction).distance < 0.02  # what 100 steps leave


def test_damping_is_exact_for_data_of_unit_variance() -> None:
    """There C_t is the true variance of x0 given x, in both modes."""
    problem = Problem(Mixture((1.0,), (0.0,), (1.0,)), Quadratic(1.0, 0.8))
    for method in ("xt, damped", "x0, damped"):
        assert run(problem, METHODS[method], 1.0, images=IMAGES).distance < 0.02


def test_damping_repairs_what_plug_in_guidance_overdoes() -> None:
    for name in ("Gaussian, quadratic", "mixture, quadratic"):
        for mode in ("x0", "xt"):
            plain, damped = result(name, mode), result(name, f"{mode}, damped")
            # C_t is not the variance of a mixture's posterior: damping by it repairs less there
            gaussian = name.startswith("Gaussian")
            less = plain.mean_error > (2 if gaussian else 1) * damped.mean_error
            assert less or plain.variance_ratio < 0.5
            assert damped.distance < (0.5 if gaussian else 0.6) * plain.distance


def test_the_table_has_a_line_for_every_method() -> None:
    lines = [line for line in table(images=4, calls=4) if line.startswith("| ")]
    heads = ["method", *METHODS]
    assert [line.split("|")[1].strip() for line in lines] == heads * len(PROBLEMS)


def test_a_reward_of_no_width_is_not_damped() -> None:
    assert METHODS["xt, damped"].config(1.0, None) == GuidanceConfig(1.0, "xt", "raw")
    assert Quadratic(1.0, 0.5).width == 0.5
