"""x0 as schedulers clip and threshold it: its values, and the gradient that leads back inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import CMStochasticIterativeScheduler, DDIMPipeline, DDIMScheduler, DDPMScheduler
from families.pixels import unconditional
from torch import Tensor

from clipguide.attach.guide import guide
from clipguide.attach.noise_levels import clipped_as_denoised, restrict_x0

CASES: dict[str, tuple[Any, Any]] = {
    "clipped": (DDIMScheduler(clip_sample=True, clip_sample_range=1.2), restrict_x0),
    "clipped to its own range": (DDPMScheduler(clip_sample=True), restrict_x0),
    "thresholded": (
        DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=0.7, sample_max_value=3.0),
        restrict_x0,
    ),
    "thresholded, s at its maximum": (
        DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.7, sample_max_value=1.1),
        restrict_x0,
    ),
    "clip_denoised": (CMStochasticIterativeScheduler(), clipped_as_denoised),
}


def own(scheduler: Any, x0: Tensor) -> Tensor:
    """What the scheduler's own code makes of x0."""
    if scheduler.config.get("thresholding"):
        return scheduler._threshold_sample(x0)
    limit = float(scheduler.config.get("clip_sample_range", 1.0))
    return x0.clamp(-limit, limit)


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_the_difference_quotient_and_the_way_back_inside(case: str) -> None:
    scheduler, finish = CASES[case]
    generator = torch.Generator().manual_seed(3)
    x0, weight = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, generator=generator) * 1.5
    assert torch.equal(finish(scheduler, x0), own(scheduler, x0))

    leaf = x0.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((finish(scheduler, leaf) * weight).sum(), leaf)

    step = 1e-6
    slope = torch.zeros_like(x0)
    for place in range(x0.numel()):
        e = torch.zeros_like(x0)
        e.view(-1)[place] = step
        ends = [(own(scheduler, x0 + sign * e) * weight).sum() for sign in (1, -1)]
        slope.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    scale = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    if scheduler.config.get("thresholding"):
        s = torch.quantile(x0.abs().flatten(1), 0.7, dim=1)
        scale = s.clamp(1, scheduler.config.sample_max_value).view(-1, 1, 1, 1)
    limit = scale if scheduler.config.get("thresholding") else own(scheduler, x0).max()
    back = (x0.abs() > limit) & (weight * x0 < 0)  # climbing makes |x0| smaller
    expected = slope + torch.where(back, weight / scale, 0.0)
    assert back.any()
    assert (x0.abs() > limit).sum() > back.sum()
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["x0", "xt"])
@pytest.mark.parametrize("restriction", [{"clip_sample": True}, {"thresholding": True}])
def test_an_x0_beyond_its_range_is_guided_back(mode: str, restriction: dict[str, Any]) -> None:
    """A flat picture that is too bright everywhere, under a reward of darkness."""
    scheduler = DDIMScheduler(**({"clip_sample": False} | restriction))
    pipe = unconditional(DDIMPipeline, scheduler)
    pipe.unet.conv_out.weight.data.mul_(1e-3)
    pipe.unet.conv_out.bias.data.fill_(-30.0)  # x0 = (x + 30 sigma)/alpha, all of it above 1
    with guide(pipe, lambda images: -images.flatten(1).mean(1), 0.2, mode=mode) as trace:
        pipe(num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert (trace.steps[0].grad_norm > 0).all()
