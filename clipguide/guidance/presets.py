"""Published guidance methods as settings: each function gives the `GuidanceConfig` of one paper.

Notation of the docstrings: x the noisy latent, x0 = x0(x) the denoiser's estimate, r the reward
(minus the paper's loss), x' the scheduler's next sample, a = alpha² the papers' cumulative alpha.
Step sizes are the papers' own and depend on the reward's scale and on the number of steps, so they
have no default. The equality of each with its published update is in tests/test_presets.py; what
they make of a posterior known in closed form, `python -m clipguide.evaluation.closed_form` prints.

Example:
    >>> from clipguide.guidance import presets
    >>> with guide(pipe, reward, config=presets.dps(0.5)):
    ...     image = pipe("a red fox", generator=generator).images[0]
"""

from __future__ import annotations

import math

from clipguide.guidance.config import GuidanceConfig


def tilted(strength: float, width: float | None = None) -> GuidanceConfig:
    """Our own rule for a reward that is a log-likelihood: the tilted prior, mode "tilt".

    Exact under any prior for r linear in x0, or quadratic with `width` = tau, r ~ -x0²/(2·tau²).
    Cost per step: one decode and score with their backward passes, as mode "x0". Any scheduler;
    with a width those of `clipguide.attach.modes.tilt.ADVANCED`.
    """
    reward_width = None if width is None or strength == 0 else width / math.sqrt(strength)
    return GuidanceConfig(strength, mode="tilt", normalize="raw", reward_width=reward_width)


def dps(step: float) -> GuidanceConfig:
    """Diffusion posterior sampling: x' + step·∂r(x0)/∂x.

    Chung et al. 2023 (https://arxiv.org/abs/2209.14687), Algorithm 1, line 7, on DDPM steps. The
    paper divides its step by the residual: for that, let r be minus the norm |y - A(x0)|, not the
    square. Cost per step: the denoiser's backward pass. Single-step schedulers.
    """
    return GuidanceConfig(step, mode="xt", normalize="raw", scale="constant", target="next")


def freedom(
    step: float, repeats: int = 1, recurrence_window: tuple[float, float] = (0.0, 1.0)
) -> GuidanceConfig:
    """FreeDoM: x' + rho·∂r(x0)/∂x, each step taken `repeats` times inside `recurrence_window`.

    Yu et al. 2023 (https://arxiv.org/abs/2303.09833), Algorithm 2, the efficient time travel; rho =
    step·sqrt(a), as in its released code for faces. Cost: `repeats` denoiser calls per step inside
    `recurrence_window` (an interval of sigma_bar), each with its backward pass. Single-step
    schedulers.
    """
    return GuidanceConfig(
        step,
        mode="xt",
        normalize="raw",
        scale="alpha",
        target="next",
        recurrence=repeats - 1,
        recurrence_window=recurrence_window,
    )


def mpgd(step: float) -> GuidanceConfig:
    """Manifold preserving guided diffusion, without autoencoder: x0 + step·∂r/∂x0, noise kept.

    He et al. 2024 (https://arxiv.org/abs/2311.16424), Algorithm 1, on DDIM steps: x' = sqrt(a')·x0
    + sqrt(1 - a' - eta²)·eps(x) + noise. In a latent pipeline x0 lies on the manifold already. Cost
    per step: no pass back through the denoiser. Single-step schedulers.
    """
    return GuidanceConfig(step, mode="x0", normalize="raw", scale="constant", target="clean")


def universal(
    strength: float, backward_steps: int = 0, backward_step: float = 0.0, repeats: int = 1
) -> GuidanceConfig:
    """Universal guidance: forward, backward, and self-recurrence.

    Bansal et al. 2023 (https://arxiv.org/abs/2302.07121), Algorithm 1. Forward (Eq. 6): eps -
    strength·sqrt(1 - a)·∂r(x0)/∂x. Backward (Eq. 7 and 9): `backward_steps` gradient steps from x0
    to x0 + d, and eps - sqrt(a/(1 - a))·d. Each step is taken `repeats` times. Cost: `repeats`
    denoiser calls per step with backward pass, each with up to `backward_steps` decodes and scores.
    Without repeats any scheduler.
    """
    return GuidanceConfig(
        strength,
        mode="xt",
        normalize="raw",
        refine=backward_steps,
        refine_strength=backward_step,
        recurrence=repeats - 1,
    )


def lgd(strength: float = 1.0, samples: int = 8) -> GuidanceConfig:
    """Loss-guided diffusion, LGD-MC: the score plus strength·∂/∂x log mean exp r(x0 + r_t·noise).

    Song et al. 2023 (https://proceedings.mlr.press/v202/song23k.html), LGD-MC: r_t =
    sigma/sqrt(1 + sigma²) in variance-exploding space, sqrt(C_t) here. r is a log-likelihood. Cost
    per step: the denoiser's backward pass, `samples` decodes and scores. Any scheduler.
    """
    return GuidanceConfig(
        strength, mode="xt", normalize="raw", smoothing=samples, smoothing_average="exp"
    )


def tfg(
    rho: float,
    mu: float,
    *,
    iterations: int = 1,
    samples: int = 1,
    gamma: float = 0.1,
    repeats: int = 1,
) -> GuidanceConfig:
    """Training-free guidance, of which the other methods are special cases.

    Ye et al. 2024 (https://arxiv.org/abs/2409.15761), Algorithm 1 with the schedules it recommends
    ("increase" for rho and mu, "decrease" for gamma), a_t = a/a' being the step's own alpha:
    x' + rho·a_t·∂r~(x0)/∂x / sqrt(a_t) + sqrt(a')·d, where d is `iterations` steps of size mu·a_t
    along ∂r~/∂x0 and r~ = log mean exp r(x0 + gamma·sqrt(1 - a)·noise). rho > 0. The paper's rho
    and mu are these times (sum of the a_t)/(number of steps), about 1. Cost: `repeats` denoiser
    calls per step with backward pass, each `samples`·`iterations` decodes and scores.
    """
    return GuidanceConfig(
        rho,
        mode="xt",
        normalize="raw",
        scale="increase",
        target="noisy",
        smoothing=samples,
        smoothing_radius=gamma,
        smoothing_average="exp",
        refine=iterations,
        refine_strength=mu,
        recurrence=repeats - 1,
    )


def flowchef(step: float) -> GuidanceConfig:
    """FlowChef: x' + step·∂r/∂x0, the denoiser's Jacobian taken for the identity.

    Patel et al. 2025 (https://arxiv.org/abs/2412.00100), "gradient skipping", on the Euler steps of
    a rectified flow. Cost per step: no pass back through the denoiser. Single-step
    schedulers.
    """
    return GuidanceConfig(step, mode="x0", normalize="raw", scale="constant", target="next")
