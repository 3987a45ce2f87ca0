"""Every published method as a setting, against its update written out slowly from the paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_pixels import SHAPE, PixelPipeline, likelihood, pixel_pipeline, start
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.view_generators import view_generators
from clipguide.guidance import presets
from clipguide.guidance.config import GuidanceConfig

STEPS = 4
SEED = 5
ETA = 0.5


class Draws:
    """The random numbers: the pipeline's own, and those of guidance, image by image."""

    def __init__(self) -> None:
        self.pipeline = torch.Generator().manual_seed(SEED)
        source = torch.Generator().manual_seed(SEED)
        purposes = ("smoothing", "recurrence")
        self.own = {p: view_generators(source, SHAPE[0], p) for p in purposes}

    def step(self) -> Tensor:
        return torch.randn(SHAPE, generator=self.pipeline, dtype=torch.float64)

    def guidance(self, purpose: str) -> Tensor:
        rows = [torch.randn(SHAPE[1:], generator=g, dtype=torch.float64) for g in self.own[purpose]]
        return torch.stack(rows)


def slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of the sum of function(at)."""
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
    return gradient


class Hand:
    """One published step: from x at cumulative alpha a to x' at a1, and what it takes."""

    def __init__(self, pipe: Any, t: Tensor, a: float, a1: float, draws: Draws) -> None:
        self.t, self.a, self.a1, self.draws, self.unet = t, a, a1, draws, pipe.unet

    def x0(self, x: Tensor) -> Tensor:
        return (x - math.sqrt(1 - self.a) * self.unet(x, self.t)) / math.sqrt(self.a)

    def ddim(self, x0: Tensor, eps: Tensor, eta: float) -> Tensor:
        """Song et al. 2021, Eq. 12 and 16."""
        a, a1 = self.a, self.a1
        sigma = eta * math.sqrt((1 - a1) / (1 - a)) * math.sqrt(1 - a / a1)
        noise = self.draws.step() if eta else 0.0
        return math.sqrt(a1) * x0 + math.sqrt(1 - a1 - sigma**2) * eps + sigma * noise

    def ddpm(self, x: Tensor) -> Tensor:
        """Ho et al. 2020, Eq. 7, with the posterior's variance."""
        a, a1 = self.a, self.a1
        alpha = a / a1
        mean = math.sqrt(a1) * (1 - alpha) / (1 - a) * self.x0(x)
        mean = mean + math.sqrt(alpha) * (1 - a1) / (1 - a) * x
        if int(self.t) == 0:
            return mean
        return mean + math.sqrt((1 - a1) / (1 - a) * (1 - alpha)) * self.draws.step()

    def back(self, following: Tensor) -> Tensor:
        """The forward process over the step: x from x' and new noise."""
        alpha = self.a / self.a1
        noise = self.draws.guidance("recurrence")
        return math.sqrt(alpha) * following + math.sqrt(1 - alpha) * noise

    def log_mean_exp(self, x0: Tensor, noise: list[Tensor]) -> Tensor:
        rewards = torch.stack([likelihood(x0 + z) for z in noise])
        highest = rewards.detach().max(0).values  # taken out: exp of the rest does not underflow
        return (rewards - highest).exp().mean(0).log() + highest


def dps(hand: Hand, x: Tensor) -> Tensor:
    return hand.ddpm(x) + 0.3 * slope(lambda y: likelihood(hand.x0(y)), x)


def freedom(hand: Hand, x: Tensor) -> Tensor:
    following = x
    for again in (True, True, False):
        gradient = slope(lambda y: likelihood(hand.x0(y)), x)
        following = hand.ddpm(x) + 0.3 * math.sqrt(hand.a) * gradient
        x = hand.back(following) if again else x
    return following


def mpgd(hand: Hand, x: Tensor) -> Tensor:
    x0, eps = hand.x0(x), hand.unet(x, hand.t)
    return hand.ddim(x0 + 0.3 * slope(likelihood, x0), eps, ETA)


def universal(hand: Hand, x: Tensor) -> Tensor:
    following = x
    for again in (True, False):
        eps, x0, a = hand.unet(x, hand.t), hand.x0(x), hand.a
        forward = slope(lambda y: likelihood(hand.x0(y)), x)
        change = torch.zeros_like(x0)
        for _ in range(3):
            change = change + 0.2 * slope(likelihood, x0 + change)
        eps = eps - 0.5 * math.sqrt(1 - a) * forward - math.sqrt(a / (1 - a)) * change
        following = hand.ddim((x - math.sqrt(1 - a) * eps) / math.sqrt(a), eps, 0.0)
        x = hand.back(following) if again else x
    return following


def lgd(hand: Hand, x: Tensor) -> Tensor:
    sigma = math.sqrt((1 - hand.a) / hand.a)  # variance-exploding
    radius = sigma / math.sqrt(1 + sigma**2)
    noise = [radius * hand.draws.guidance("smoothing") for _ in range(4)]
    gradient = slope(lambda y: hand.log_mean_exp(hand.x0(y), noise), x)
    eps = hand.unet(x, hand.t) - 0.5 * math.sqrt(1 - hand.a) * gradient
    return hand.ddim((x - math.sqrt(1 - hand.a) * eps) / math.sqrt(hand.a), eps, 0.0)


def tfg(hand: Hand, x: Tensor) -> Tensor:
    following, a_t = x, hand.a / hand.a1
    for again in (True, False):
        radius = 0.4 * math.sqrt(1 - hand.a)
        noise = [radius * hand.draws.guidance("smoothing") for _ in range(2)]
        x0 = hand.x0(x)
        variance = 0.3 * a_t * slope(lambda y, z=noise: hand.log_mean_exp(hand.x0(y), z), x)
        mean = torch.zeros_like(x0)
        for _ in range(2):
            at = x0 + mean
            mean = mean + 0.2 * a_t * slope(lambda y, z=noise: hand.log_mean_exp(y, z), at)
        following = hand.ddim(x0, hand.unet(x, hand.t), ETA)
        following = following + variance / math.sqrt(a_t) + math.sqrt(hand.a1) * mean
        x = hand.back(following) if again else x
    return following


CASES: dict[str, tuple[Any, GuidanceConfig, str, dict[str, Any]]] = {
    "dps": (dps, presets.dps(0.3), "ddpm", {}),
    "freedom": (freedom, presets.freedom(0.3, repeats=3), "ddpm", {}),
    "mpgd": (mpgd, presets.mpgd(0.3), "ddim", {"eta": ETA}),
    "universal": (universal, presets.universal(0.5, 3, 0.2, repeats=2), "ddim", {}),
    "lgd": (lgd, presets.lgd(0.5, samples=4), "ddim", {}),
    "tfg": (
        tfg,
        presets.tfg(0.3, 0.2, iterations=2, samples=2, gamma=0.4, repeats=2),
        "ddim",
        {"eta": ETA},
    ),
}


def guided(pipe: PixelPipeline, config: GuidanceConfig, **extra: Any) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    with guide(pipe, likelihood, config=config, decoder=lambda x0: x0):
        return pipe(STEPS, generator, **extra)


def by_hand(pipe: Any, update: Callable[[Hand, Tensor], Tensor]) -> Tensor:
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    bars = [float(scheduler.alphas_cumprod[int(t)]) for t in scheduler.timesteps]
    x, draws = start(), Draws()
    with torch.no_grad():
        for t, (a, a1) in zip(scheduler.timesteps, itertools.pairwise([*bars, 1.0]), strict=True):
            x = update(Hand(pipe, t, a, a1, draws), x)
    return x


def off(got: Tensor, expected: Tensor, unguided: Tensor) -> float:
    """The error as a fraction of what guidance did."""
    return float((got - expected).norm() / (expected - unguided).norm())


@pytest.mark.parametrize("name", [*CASES])
def test_a_preset_is_the_published_update(name: str, record_property: Any) -> None:
    update, config, kind, extra = CASES[name]
    pipe = pixel_pipeline(kind)
    unguided = pipe(STEPS, torch.Generator().manual_seed(SEED), **extra)
    error = off(guided(pipe, config, **extra), by_hand(pipe, update), unguided)
    record_property("relative_error", error)
    assert error < 1e-6
    assert type(pipe.scheduler.timesteps) is Tensor  # nothing is left of the recurrence


def test_flowchef_is_the_published_update() -> None:
    """x' = x + s·∂r/∂x0 + (sigma' - sigma)·v; diffusers' flow steps are float32."""
    pipe: Any = pixel_pipeline("flow")
    unguided = pipe(STEPS, torch.Generator().manual_seed(SEED))
    pipe.scheduler.set_timesteps(STEPS)
    x = start()
    sigmas: list[float] = pipe.scheduler.sigmas.double().tolist()
    with torch.no_grad():
        for t, (sigma, then) in zip(
            pipe.scheduler.timesteps, itertools.pairwise(sigmas), strict=True
        ):
            v = pipe.unet(x, t)
            x = x + 0.3 * slope(likelihood, x - sigma * v) + (then - sigma) * v
    assert off(guided(pipe, presets.flowchef(0.3)), x, unguided) < 1e-6


def test_image_i_depends_on_its_seed_alone() -> None:
    """Smoothing and recurrence draw for each image from its own seed."""
    pipe = pixel_pipeline("ddim")
    config = presets.tfg(0.3, 0.2, samples=2, repeats=2)
    images = {seeds: _with_generators(pipe, config, seeds) for seeds in ((1, 2), (2, 1), (1, 1))}
    assert not torch.equal(images[1, 2][0], images[2, 1][0])  # another start, another image
    torch.testing.assert_close(images[1, 2][0], images[1, 1][0], rtol=1e-12, atol=0)


def _with_generators(pipe: Any, config: GuidanceConfig, seeds: tuple[int, int]) -> Tensor:
    own = [torch.Generator().manual_seed(seed) for seed in seeds]
    with guide(pipe, likelihood, config=config, decoder=lambda x0: x0, generator=own):
        return pipe(STEPS, torch.Generator().manual_seed(SEED))
