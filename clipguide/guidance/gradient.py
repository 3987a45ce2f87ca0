"""The gradient of a reward with respect to a latent, sample by sample, and whom to blame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.rewards.base import Reward, check_rewards
from clipguide.rewards.probes import Probes, finite_samples, watching

Decode = Callable[[Tensor], Tensor]
"""Latents (B, ...) to images (B, 3, H, W) in [0, 1], differentiable."""

GRADIENT_SCALE = 256.0
"""Factor of the reward in the backward pass, so that float16 components do not flush small
gradients to zero (Micikevicius et al. 2018, section 3.2, https://arxiv.org/abs/1710.03740). A power
of two: in float32 it changes no bit."""


@dataclass(frozen=True)
class Evaluation:
    """A reward and its gradient.

    Attributes:
        score: (B,).
        gradient: with respect to the latent asked for, 0 for samples that are not usable.
        usable: (B,) bool on the gradient's device.
        culprits: sample -> the component that made it unusable.
    """

    score: Tensor
    gradient: Tensor
    usable: Tensor
    culprits: dict[int, str]


def evaluate(
    x0: Tensor,
    source: Tensor,
    decode: Decode,
    reward: Reward,
    generators: Sequence[torch.Generator],
    *,
    differentiate: bool = True,
) -> Evaluation:
    """Decodes x0, takes its reward and the reward's gradient at `source`.

    Rewards are summed over the batch, so each sample's gradient is its own. A sample whose model
    output, image, score or gradient is not finite is reported in `culprits`.

    Args:
        x0: predicted clean latents (B, ...), float32.
        source: the latent to differentiate by; x0 itself, or the noisy latent it came from.
        decode: latents to images.
        reward: images to (B,).
        generators: one per sample, for the reward's views.
        differentiate: False takes the score alone, and the gradient is 0.
    """
    batch = x0.shape[0]
    probes = Probes(batch)
    with watching(probes):
        probes.add("denoiser", x0)
        images = decode(x0)
        probes.add("decoder", images)
        score = check_rewards(reward(images, generators=generators), batch)
        probes.add("reward", score)
    gradient = torch.zeros_like(x0)
    if differentiate:
        gradient = _gradient(score, source).to(x0.dtype) / GRADIENT_SCALE
    usable = finite_samples(score, batch).to(gradient.device) & finite_samples(gradient, batch)
    culprits = {i: probes.culprit(i) for i in (~usable).nonzero().flatten().tolist()}
    mask = usable.view(-1, *[1] * (gradient.ndim - 1))
    return Evaluation(
        score.detach(), torch.where(mask, gradient, torch.zeros_like(gradient)), usable, culprits
    )


def _gradient(score: Tensor, source: Tensor) -> Tensor:
    if not score.requires_grad:
        raise ValueError(
            "got a reward that is not differentiable with respect to the image, expected one that "
            "is (use search or rerank for the others)"
        )
    scaled = torch.full_like(score, GRADIENT_SCALE)
    (gradient,) = torch.autograd.grad(score, source, grad_outputs=scaled)
    return gradient
