"""Where diffusers' schedulers keep (alpha, sigma), and the x0 formulas that only one of them has.

A level function is (scheduler, timestep, index into its sigmas) -> NoiseLevel of the sample that
`step` is given; a formula is (scheduler, level) -> Parameterization; a finish is
(scheduler, x0) -> x0 as the scheduler goes on with it and the decoder expects it. Which class uses
which is the table in `attach.schedulers`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from clipguide.guidance.inward_clamp import inward_clamp
from clipguide.guidance.parameterization import NoiseLevel, Parameterization

# ------------------------------------------------------------------------------------ noise levels


def one_timestep(timestep: Any) -> Any:
    """The timestep of the batch: some pipelines repeat it for every sample, (B,)."""
    return timestep.flatten()[0] if torch.is_tensor(timestep) else timestep


def from_alphas_cumprod(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """DDPM, DDIM and theirs: alpha² = alphas_cumprod[t]."""
    return _variance_preserving(float(scheduler.alphas_cumprod[int(one_timestep(timestep))]))


def from_cosine_schedule(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """Wuerstchen: alpha² is a function of a timestep in [0, 1]."""
    t = torch.as_tensor(one_timestep(timestep)).reshape(1)
    return _variance_preserving(float(scheduler._alpha_cumprod(t, t.device)))


def _variance_preserving(alpha_bar: float) -> NoiseLevel:
    return NoiseLevel(math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))


def from_k_sigmas(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """x = x0 + sigma·eps."""
    return NoiseLevel(1.0, float(scheduler.sigmas[index]))


def from_k_dpm_2(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """The second stage is at the interpolated sigma."""
    sigmas = scheduler.sigmas if scheduler.state_in_first_order else scheduler.sigmas_interpol
    return NoiseLevel(1.0, float(sigmas[index]))


def from_k_dpm_2_ancestral(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """As KDPM2, one place earlier."""
    if scheduler.state_in_first_order:
        return NoiseLevel(1.0, float(scheduler.sigmas[index]))
    return NoiseLevel(1.0, float(scheduler.sigmas_interpol[index - 1]))


def from_dpm_sde(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """The second stage is at the geometric mean of two sigmas, which the first stage leaves."""
    if scheduler.state_in_first_order:
        return NoiseLevel(1.0, float(scheduler.sigmas[index]))
    return NoiseLevel(1.0, float(scheduler.mid_point_sigma))


def from_alpha_sigma(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """DPM-Solver and its relatives, with their own or with flow sigmas."""
    alpha, sigma = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[index])
    return NoiseLevel(float(alpha), float(sigma))


def from_flow_sigmas(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """x = (1 - sigma)·x0 + sigma·eps; inverted sigmas count the image's share instead."""
    sigma = float(scheduler.sigmas[index])
    if scheduler.config.get("invert_sigmas"):
        sigma = 1 - sigma
    return NoiseLevel(1 - sigma, sigma)


def from_angle(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """TrigFlow: x = cos(t)·x0 + sin(t)·eps."""
    angle = float(scheduler.timesteps[index])
    return NoiseLevel(math.cos(angle), math.sin(angle))


def from_sine_table(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    """IPNDM: `betas` holds sigma, `alphas` alpha."""
    return NoiseLevel(float(scheduler.alphas[index]), float(scheduler.betas[index]))


# ---------------------------------------------------------------------------------------- formulas


def edm_formula(scheduler: Any, level: NoiseLevel) -> Parameterization:
    """x0 = c_skip·x + c_out·out (Karras et al. 2022, Table 1, https://arxiv.org/abs/2206.00364)."""
    deviation = float(scheduler.config.sigma_data)
    radius = math.hypot(level.sigma, deviation)
    sign = -1.0 if scheduler.config.prediction_type == "v_prediction" else 1.0
    return Parameterization(deviation**2 / radius**2, sign * level.sigma * deviation / radius)


def consistency_formula(scheduler: Any, level: NoiseLevel) -> Parameterization:
    """x0 = c_skip·x + c_out·out with c_skip = 1 at the smallest sigma (Song et al. 2023, Eq. 5)."""
    skip, out = scheduler.get_scalings_for_boundary_condition(level.sigma)
    return Parameterization(float(skip), float(out))


def towards_image_formula(scheduler: Any, level: NoiseLevel) -> Parameterization:
    """Flow whose velocity points from noise to image: out = x0 - eps."""
    total = level.alpha + level.sigma
    return Parameterization(1 / total, level.sigma / total)


def flow_formula(scheduler: Any, level: NoiseLevel) -> Parameterization:
    """Flow in either direction: inverted sigmas come with the opposite velocity."""
    towards = towards_image_formula(scheduler, level)
    inverted = bool(scheduler.config.get("invert_sigmas"))
    return towards if inverted else Parameterization(towards.a, -towards.b)


# -------------------------------------------------------------------------------------------- x0


def restrict_x0(scheduler: Any, x0: Tensor) -> Tensor:
    """x0 as the scheduler goes on with it: thresholded or clipped where its config says so.

    Restricted values keep the gradients that lead back inside (`inward_clamp`).
    """
    if scheduler.config.get("thresholding"):
        return _thresholded(scheduler.config, x0)
    if scheduler.config.get("clip_sample"):
        limit = float(scheduler.config.get("clip_sample_range", 1.0))
        return inward_clamp(x0, -limit, limit)
    return x0


def _thresholded(config: Any, x0: Tensor) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022, section 2.3, https://arxiv.org/abs/2205.11487).

    diffusers' `_threshold_sample` with an inward clamp; s has a gradient too.
    """
    magnitude = x0.flatten(1).abs()
    s = torch.quantile(magnitude, config.dynamic_thresholding_ratio, dim=1)  # (B,)
    s = s.clamp(min=1, max=config.sample_max_value).view(-1, *[1] * (x0.ndim - 1))
    return inward_clamp(x0, -s, s) / s


def unrestricted(scheduler: Any, x0: Tensor) -> Tensor:
    """x0 itself: the class has `clip_sample` in its config and ignores it."""
    return x0


def clipped_as_denoised(scheduler: Any, x0: Tensor) -> Tensor:
    """Consistency models clip to [-1, 1] by `clip_denoised`."""
    return inward_clamp(x0, -1.0, 1.0) if scheduler.config.clip_denoised else x0


def of_unit_deviation(scheduler: Any, x0: Tensor) -> Tensor:
    """TrigFlow samples are `sigma_data` times the latents that are decoded."""
    return x0 / float(scheduler.config.sigma_data)
