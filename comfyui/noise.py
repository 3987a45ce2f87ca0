"""The noise level that a ComfyUI sigma stands for, by the model's own rule."""

from __future__ import annotations

from typing import Any

import comfy.model_sampling
import torch
from torch import Tensor

from clipguide.guidance import NoiseLevel

UNKNOWN = ("IMG_TO_IMG", "IMG_TO_IMG_FLOW", "V_PREDICTION_DDPM")
"""Samplings whose input is no noisy latent x = alpha·x0 + sigma·eps of its sigma."""


def noise_level(model_sampling: Any, sigma: Tensor) -> NoiseLevel:
    """alpha and sigma of x = alpha·x0 + sigma·eps.

    ComfyUI's `noise_scaling` says them for every kind of model: it is asked for pure noise and for
    a clean latent. A sigma is one of k-diffusion (alpha = 1) or the time of a flow (alpha = 1 - t).

    Args:
        model_sampling: of the model.
        sigma: (B,), the same for all.

    Raises:
        ValueError: a sampling without such a noise level, or samples of different ones.
    """
    for name in UNKNOWN:
        if isinstance(model_sampling, getattr(comfy.model_sampling, name, ())):
            raise ValueError(f"got a model sampled as {name}, expected one that removes noise")
    values = sigma.detach().double().cpu().flatten()
    if not bool((values == values[0]).all()):
        raise ValueError(
            f"got sigmas {values.tolist()} in one batch, expected the same for all its latents"
        )
    level = values[:1]

    def scaled(noise: float, latent: float) -> float:
        ends = (torch.full((1, 1), value, dtype=torch.float64) for value in (noise, latent))
        return float(model_sampling.noise_scaling(level, *ends))

    return NoiseLevel(scaled(0.0, 1.0), scaled(1.0, 0.0))
