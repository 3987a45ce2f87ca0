"""The starting noise climbed by gradients, through every step: for pipelines of few steps.

Eyring et al. 2024, "ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise
Optimization", https://arxiv.org/abs/2406.04312 (Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from clipguide.attach.observe import Step
from clipguide.attach.preserve import Freeze, grad_mode_restored, pipeline_modules, refuse_offload
from clipguide.rewards.base import terms_that_read
from clipguide.search.candidate import Candidate, best_first
from clipguide.search.numbers import check_numbers
from clipguide.search.rollout import Rollout
from clipguide.seeds import derive_generator, image_seeds, make_generators


@dataclass(frozen=True)
class NoiseGradient:
    """Gradient ascent on one starting noise, every picture on the way kept.

    Each iteration makes the picture of the noise, and moves the noise by the gradient of the
    reward of the clean latent's picture: Nesterov momentum, the gradient's norm clipped. Then the
    noise is brought back to the norm that it was drawn with: of Gaussian noise in many dimensions
    nearly all has that norm, so it stays what the denoiser was trained on (in the place of the
    paper's penalty, which is largest there).

    Attributes:
        rate: step size, above 0, for noise of unit variance.
        momentum: in [0, 1).
        clip: the largest norm of a gradient, above 0.

    Cost: `budget` trajectories, each with its backward pass, about two more of it, and one decode
    with its own; the activations of all steps are in memory, which a pipeline of 1 to 4 steps can
    have. Returns every picture, best first.
    Raises: ValueError for a setting out of range, a reward without a gradient, guidance beside it,
    a pipeline that does not start from pure noise; RuntimeError in inference mode or with
    offloading.
    """

    rate: float = 5.0
    momentum: float = 0.9
    clip: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("rate", "clip"):
            value: float = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ValueError(f"got {name}={value}, expected a finite number > 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"got momentum={self.momentum}, expected a number in [0, 1)")

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        return best_first(one for found in self.rounds(rollout, budget, seed) for one in found)

    def rounds(self, rollout: Rollout, budget: int, seed: int) -> Iterator[list[Candidate]]:
        """Iteration after iteration."""
        if rollout.observer.guided:
            raise ValueError("got guidance=, expected none: noise_gradient has its own gradient")
        rollout.require_pure_noise()
        refuse_offload(rollout.call.pipe)
        if torch.is_inference_mode_enabled():
            raise RuntimeError("got torch.inference_mode, expected torch.no_grad or none")
        (own,) = image_seeds(seed, 1)
        last = rollout.calls() - 1
        noise, velocity = None, None
        for _ in range(budget):
            climb = _Climb(rollout, noise, own, last)
            yield [climb.run()]
            noise, velocity = self.moved(climb.start, climb.gradient, velocity)

    def moved(
        self, noise: Tensor, gradient: Tensor, velocity: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The next noise and velocity; (1, ...) each.

        Sutskever et al. 2013 as torch.optim.SGD(nesterov=True) has it, on noise of unit variance.
        """
        norm = noise.norm()
        scale = norm / noise.numel() ** 0.5  # the deviation that the pipeline gives its noise
        slope = gradient * scale
        slope = slope * (self.clip / slope.norm().clamp(min=self.clip))
        carried: Tensor = slope if velocity is None else self.momentum * velocity + slope
        moved: Tensor = noise + self.rate * scale * (slope + self.momentum * carried)
        return moved * (norm / moved.norm()), carried


class _Climb:
    """One picture, and the gradient of its reward in its starting noise."""

    def __init__(self, rollout: Rollout, noise: Tensor | None, seed: int, last: int) -> None:
        self._rollout, self._seed, self._last = rollout, seed, last
        self._given = noise
        self._freeze = Freeze(pipeline_modules(rollout.call.pipe))
        self._leaf: Tensor | None = None
        self._gradient: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """The noise, (1, ...)."""
        return cast("Tensor", self._leaf).detach()

    @property
    def gradient(self) -> Tensor:
        """(1, ...)."""
        if self._gradient is None:
            raise RuntimeError("no last step was seen, so there is no gradient")
        return self._gradient

    def run(self) -> Candidate:
        """Makes the picture."""
        with grad_mode_restored():
            try:
                made = self._rollout.run(
                    make_generators([self._seed]), self._step, on_start=self._begin
                )
            finally:
                self._freeze.thaw()
        return self._rollout.candidates([self._seed], made)[0]

    def _begin(self, noise: Tensor) -> Tensor:
        """The graph begins here."""
        self._freeze.freeze()
        torch.set_grad_enabled(True)
        self._leaf = (noise if self._given is None else self._given).detach().requires_grad_()
        return self._leaf

    def _step(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """The graph ends at the last step, before what is decoded for the picture itself."""
        if step.index < self._last or self._gradient is not None:
            return None
        self._gradient = self._slope(step)
        torch.set_grad_enabled(False)
        return step.sample.detach(), step.output.detach()

    def _slope(self, step: Step) -> Tensor:
        """The gradient of the last step's reward in the noise, (1, ...)."""
        reward, x0 = self._rollout.rewards.climbed, step.x0()
        (own,) = make_generators([self._seed])
        generators = [derive_generator(own, "search, final")]
        total = torch.zeros(1)
        of_latents = terms_that_read(reward, "latents")
        if of_latents is not None:
            total = of_latents.of_latents(step.observed.grid(x0), 0.0, generators=generators)
        of_images = terms_that_read(reward, "images")
        with ExitStack() as stack:
            if of_images is not None:
                images = stack.enter_context(step.observed.decoded(x0))
                seen = of_images(images, generators=generators)
                total = total.to(seen.device) + seen
            if not total.requires_grad:
                raise ValueError(
                    f"got {type(reward).__name__} without a gradient, expected a differentiable one"
                )
            (gradient,) = torch.autograd.grad(total.sum(), cast("Tensor", self._leaf))
        if not bool(gradient.isfinite().all()):
            raise ValueError("got a gradient that is not finite, expected a finite one")
        return gradient
