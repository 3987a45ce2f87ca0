"""The step rule: formulas of the papers, per-sample scale, and a posterior known in closed form."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from clipguide.guidance.parameterization import NoiseLevel, parameterization
from clipguide.guidance.step_rule import FAINTEST, NORMALIZE, displacement

LEVEL = NoiseLevel(0.6, 0.8)


def batch(seed: int, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.01, 1.0, 100.0])[:count].view(-1, 1, 1, 1)
    return scale * torch.randn(count, 4, 2, 2, generator=generator)


def sizes(x: Tensor) -> list[float]:
    """Root mean square of each sample, the slow way."""
    return [math.sqrt(sum(v * v for v in s.flatten().tolist()) / s.numel()) for s in x]


def test_rms_moves_each_sample_by_its_own_share_of_x0() -> None:
    gradient, x0 = batch(1), batch(2).flip(0)
    delta = displacement(gradient, x0, LEVEL, strength=0.3)
    assert sizes(delta) == pytest.approx([0.3 * 0.8 * size for size in sizes(x0)], rel=1e-5)
    cosine = torch.cosine_similarity(delta.flatten(1), gradient.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(3))


def test_raw_is_the_formula() -> None:
    gradient, x0 = batch(1), batch(2)
    x0_mode = displacement(gradient, x0, LEVEL, strength=2.0, normalize="raw")
    torch.testing.assert_close(x0_mode, 2.0 * 0.8**2 / (0.8**2 + 0.6**2) * gradient)
    xt_mode = displacement(gradient, x0, LEVEL, strength=2.0, mode="xt", normalize="raw")
    torch.testing.assert_close(xt_mode, 2.0 * 0.8**2 / 0.6 * gradient)


@given(angle=st.floats(1e-4, math.pi / 2 - 1e-3), radius=st.sampled_from([0.3, 1.0, 20.0]))
@example(angle=FAINTEST, radius=1.0)
def test_mode_noisy_is_classifier_guidance_where_there_is_signal(
    angle: float, radius: float
) -> None:
    """In the faintest signal the factor falls with alpha: a first step of flow does not explode."""
    level = NoiseLevel(radius * math.sin(angle), radius * math.cos(angle))
    gradient = torch.ones(1, 1, dtype=torch.float64) / radius  # of a reward of x/radius
    found = float(
        displacement(gradient, gradient, level, strength=1.0, mode="noisy", normalize="raw")
    )
    signal, noise = math.sin(angle), math.cos(angle)
    published = noise**2 / signal
    assert found == pytest.approx(
        published if signal >= FAINTEST else noise**2 * signal / FAINTEST**2, rel=1e-6
    )
    assert found <= 1 / FAINTEST


def test_the_faintest_signal_is_stable_diffusion_s_own() -> None:
    """Every step of SD's schedule is classifier guidance as published."""
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    last = float(scheduler.alphas_cumprod[-1]) ** 0.5
    assert FAINTEST <= last < 1.01 * FAINTEST


@pytest.mark.parametrize(
    ("prediction", "published"),
    [("epsilon", lambda g: -2.0 * 0.8 * g), ("v_prediction", lambda g: -2.0 * 0.8 / 0.6 * g)],
)
def test_mode_xt_is_classifier_guidance(prediction: str, published: object) -> None:
    """eps' = eps - s·sigma·g (Dhariwal & Nichol 2021, Algorithm 2); v' = v - s·(sigma/alpha)·g."""
    out, gradient, x0 = (batch(seed).double() for seed in (1, 2, 3))
    delta = displacement(gradient, x0, LEVEL, strength=2.0, mode="xt", normalize="raw")
    moved = parameterization(prediction, LEVEL).displace(out, delta) - out
    torch.testing.assert_close(moved, published(gradient))  # type: ignore[operator]


def test_clamp_is_raw_but_never_more_than_rms() -> None:
    gradient, x0 = batch(1), batch(2)[1:2].expand(3, -1, -1, -1)
    raw, rms, clamped = (
        sizes(displacement(gradient, x0, LEVEL, strength=0.5, normalize=n))
        for n in ("raw", "rms", "clamp")
    )
    assert clamped == pytest.approx([min(a, b) for a, b in zip(raw, rms, strict=True)])
    assert clamped[0] == pytest.approx(raw[0])
    assert clamped[2] == pytest.approx(rms[2])


def test_cfg_is_a_fraction_of_the_cfg_displacement() -> None:
    cfg = batch(4)
    delta = displacement(batch(1), batch(2), LEVEL, strength=0.25, normalize="cfg", cfg=cfg)
    assert sizes(delta) == pytest.approx([0.25 * size for size in sizes(cfg)], rel=1e-5)
    with pytest.raises(ValueError, match="without classifier-free guidance"):
        displacement(batch(1), batch(2), LEVEL, strength=0.25, normalize="cfg")


@pytest.mark.parametrize("normalize", [*NORMALIZE])
def test_no_gradient_no_displacement(normalize: str) -> None:
    zero = torch.zeros(3, 4, 2, 2)
    delta = displacement(zero, batch(2), LEVEL, strength=1.0, normalize=normalize, cfg=batch(3))
    assert torch.equal(delta, zero)


@pytest.mark.parametrize("normalize", [*NORMALIZE])
def test_a_sample_does_not_depend_on_its_neighbours(normalize: str) -> None:
    parts = [batch(seed) for seed in (1, 2, 3)]
    together = displacement(
        parts[0], parts[1], LEVEL, strength=0.4, normalize=normalize, cfg=parts[2]
    )
    for i in range(3):
        g, x0, cfg = (part[i : i + 1] for part in parts)
        alone = displacement(g, x0, LEVEL, strength=0.4, normalize=normalize, cfg=cfg)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-6, atol=0)


# --------------------------------------------------------------- a posterior known in closed form

PRIOR, TARGET, WIDTH = 1.1, 1.5, 0.7
"""x0 ~ N(0, 1.1²), reward -(x0 - 1.5)²/(2·0.7²): the posterior is Gaussian."""
VARIANCE = 1 / (1 / PRIOR**2 + 1 / WIDTH**2)
MEAN = VARIANCE * TARGET / WIDTH**2


def noise_levels(steps: int) -> list[NoiseLevel]:
    """Stable Diffusion's schedule, from noise to clean; the last is clean."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = (1 - betas).cumprod(0)[torch.linspace(999, 0, steps + 1).round().long()[:-1]]
    levels = [NoiseLevel(math.sqrt(a), math.sqrt(1 - a)) for a in alpha_bar.tolist()]
    return [*levels, NoiseLevel(1.0, 0.0)]


def posterior_error(
    mode: str, damping: float | None, prediction: str = "epsilon", steps: int = 1000
) -> tuple[float, float]:
    """|mean error| and variance ratio of guided DDIM with the exact denoiser.

    Everything is affine in x, so the two starts 0 and 1 give the distribution from N(0, 1) exactly.
    """
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    levels = noise_levels(steps)
    for now, then in itertools.pairwise(levels):
        rule = parameterization(prediction, now)
        leaf = x.clone().requires_grad_()
        known = now.alpha * PRIOR**2 / (now.alpha**2 * PRIOR**2 + now.sigma**2) * leaf
        out = (known - rule.a * leaf) / rule.b  # the exact denoiser in this parametrisation
        x0 = rule.x0(leaf, out)
        reward = -((x0 - TARGET) ** 2) / (2 * WIDTH**2)
        (gradient,) = torch.autograd.grad(reward.sum(), leaf if mode == "xt" else x0)
        delta = displacement(
            gradient, x0.detach(), now, strength=1.0, mode=mode, normalize="raw", damping=damping
        )
        x0 = rule.x0(x, rule.displace(out.detach(), delta))
        x = then.alpha * x0 + then.sigma * (x - now.alpha * x0) / now.sigma  # DDIM, eta = 0
    zero, one = x.flatten().tolist()
    return abs(zero - MEAN), (one - zero) ** 2 / VARIANCE


def test_damping_repairs_over_steering() -> None:
    plain, damped = posterior_error("xt", None), posterior_error("xt", WIDTH)
    damped_x0 = posterior_error("x0", WIDTH)
    assert plain[0] > 0.5  # the plug-in overshoots ...
    assert plain[1] < 0.35  # ... and collapses
    assert damped[0] < 0.01
    assert damped[1] == pytest.approx(1, abs=0.07)
    assert damped_x0[0] < 0.1
    assert damped_x0[1] == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("mode", ["x0", "xt"])
def test_guidance_is_the_same_in_every_parametrisation(mode: str) -> None:
    reference = posterior_error(mode, WIDTH, "epsilon", steps=50)
    for prediction in ("v_prediction", "sample"):
        assert posterior_error(mode, WIDTH, prediction, steps=50) == pytest.approx(
            reference, rel=1e-6
        )
