"""The gradient of a reward with respect to a latent, sample by sample, and what made it non-finite.

It is taken at x0 first; mode xt then pulls it back through the denoiser to x_t, once, however many
noisy copies of x0 were scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.guidance.smoothing import averaged
from clipguide.rewards.base import check_rewards
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
        nonfinite_sources: sample -> the component that made it unusable.
    """

    score: Tensor
    gradient: Tensor
    usable: Tensor
    nonfinite_sources: dict[int, str]


def evaluate(
    x0: Tensor,
    decode: Decode,
    reward: Callable[..., Tensor],
    generators: Sequence[torch.Generator],
    *,
    differentiate: bool = True,
    copies: Sequence[Tensor] | None = None,
    average: str = "mean",
) -> Evaluation:
    """Decodes x0, takes its reward and the reward's gradient at x0.

    Rewards are summed over the batch, so each sample's gradient is its own. A sample whose model
    output, image, score or gradient is not finite is reported in `nonfinite_sources`.

    Args:
        x0: predicted clean latents (B, ...), float32; any graph they have is left alone. Where the
            reward reads noisy latents, these.
        decode: latents to images, or to what else the reward reads.
        reward: of these, with `generators`, to (B,).
        generators: one per sample, for the reward's views.
        differentiate: False takes the score alone, and the gradient is 0.
        copies: displacements of x0 whose rewards are averaged, (B, ...) each; None: x0 itself.
        average: see `averaged`.

    Cost: one decode, one score and their backward passes per copy; one copy at a time in memory.
    """
    batch = x0.shape[0]
    probes, scores, gradients = Probes(batch), [], []
    for copy in [None] if copies is None else copies:
        at = x0.detach() if copy is None else x0.detach() + copy
        leaf = at.clone().requires_grad_(differentiate)
        with watching(probes):
            probes.add("denoiser", leaf)
            images = decode(leaf)
            probes.add("decoder", images)
            score = check_rewards(reward(images, generators=generators), batch)
            probes.add("reward", score)
        scores.append(score.detach())
        gradients.append(_gradient(score, leaf) if differentiate else torch.zeros_like(leaf))
    score, weights = averaged(torch.stack(scores), average)  # (B,), (n, B)
    shares = weights.to(gradients[0]).view(*weights.shape, *[1] * (x0.ndim - 1))
    gradient = gradients[0] if len(gradients) == 1 else (shares * torch.stack(gradients)).sum(0)
    usable = finite_samples(score, batch).to(gradient.device) & finite_samples(gradient, batch)
    sources = {i: probes.nonfinite_source(i) for i in (~usable).nonzero().flatten().tolist()}
    return Evaluation(score, _where(usable, gradient), usable, sources)


def pulled_back(found: Evaluation, x0: Tensor, source: Tensor) -> Evaluation:
    """The evaluation with the gradient at `source`, from which `x0` was computed with a graph.

    Cost: one backward pass from x0 to source. Samples that it makes non-finite are the denoiser's.
    """
    scaled = found.gradient * GRADIENT_SCALE
    (gradient,) = torch.autograd.grad(x0, source, grad_outputs=scaled.to(x0.dtype))
    gradient = gradient.to(found.gradient.dtype) / GRADIENT_SCALE
    finite = finite_samples(gradient, len(gradient))
    lost = (found.usable & ~finite).nonzero().flatten().tolist()
    usable = found.usable & finite
    return Evaluation(
        found.score,
        _where(usable, gradient),
        usable,
        found.nonfinite_sources | dict.fromkeys(lost, "denoiser"),
    )


def added(first: Evaluation, second: Evaluation, factor: float) -> Evaluation:
    """The sum of two rewards of the same samples, the second's gradient times `factor`.

    A sample that either makes non-finite is not usable.
    """
    usable = first.usable & second.usable.to(first.usable.device)
    gradient = first.gradient + factor * second.gradient.to(first.gradient)
    return Evaluation(
        first.score + second.score.to(first.score.device),
        _where(usable, gradient),
        usable,
        second.nonfinite_sources | first.nonfinite_sources,
    )


def climbed(
    x0: Tensor, first: Evaluation, again: Callable[[Tensor], Evaluation], size: float, count: int
) -> Tensor:
    """Where `count` gradient steps of `size` lead from x0: their sum, (B, ...).

    Args:
        first: the evaluation at x0.
        again: evaluates elsewhere; called count - 1 times.
    """
    delta, found = torch.zeros_like(x0), first
    for step in range(count):
        found = found if step == 0 else again(x0 + delta)
        delta = delta + size * found.gradient
    return delta


def _where(usable: Tensor, gradient: Tensor) -> Tensor:
    mask = usable.view(-1, *[1] * (gradient.ndim - 1))
    return torch.where(mask, gradient, torch.zeros_like(gradient))


def _gradient(score: Tensor, leaf: Tensor) -> Tensor:
    if not score.requires_grad:
        raise ValueError(
            "got a reward that is not differentiable with respect to the image, expected one that "
            "is (use search or rerank for the others)"
        )
    scaled = torch.full_like(score, GRADIENT_SCALE)
    (gradient,) = torch.autograd.grad(score, leaf, grad_outputs=scaled)
    return gradient / GRADIENT_SCALE
