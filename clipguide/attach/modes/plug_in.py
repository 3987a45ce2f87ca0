"""The reward of the plug-in estimate: x0 of the model output, decoded and scored.

What modes x0, xt and tilt share. They differ in the point at which the gradient is taken and in
what the displacement moves.
"""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor

from clipguide.attach.decoders import upcast
from clipguide.attach.modes.base import Edit, Mode, StepContext, displaced, split
from clipguide.attach.preserve import weights_kept
from clipguide.guidance.gradient import Evaluation, climbed, evaluate
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.scale import SCALES, TARGETS
from clipguide.guidance.smoothing import spread
from clipguide.guidance.step_rule import StepSizes, damped, normalized, rms
from clipguide.rewards.base import Reward


class PlugIn(Mode):
    """Climbs the reward of the image that the denoiser predicts.

    A subclass names its gradient by `estimate` and `gradient`, and its raw displacement's factor by
    `posterior`.
    """

    # --------------------------------------------------------------- what a subclass may change

    def posterior(self, level: NoiseLevel) -> float:
        """Factor of the gradient for scale "posterior"."""
        return level.variance  # C_t

    def image_reward(self) -> Reward:
        """What is climbed of the decoded x0."""
        return self.objective.reward

    def estimate(self, out: Tensor, x: Tensor, step: StepContext) -> Tensor:
        """x0, with a graph where the gradient is to go on from it."""
        return step.form.x0(x.detach(), out.detach()).clone()

    def gradient(self, found: Evaluation, x0: Tensor, x: Tensor) -> Evaluation:
        """The evaluation, with the gradient at the point where it is wanted, not at x0."""
        return found

    def graph_allowed(self) -> AbstractContextManager[object]:
        """Gradients can be taken inside, also in a pipeline run under inference mode."""
        return torch.inference_mode(False)

    def thawed(self) -> None:
        """The gradient is taken: no parameter needs to be frozen any more."""
        self.objective.freeze.thaw()

    # ------------------------------------------------------------------------------ the step rule

    def edit(self, out: Tensor, x: Tensor, step: StepContext) -> Edit:
        """The model output, or for another target the next sample, displaced."""
        mean, _ = split(out, x.shape[1])
        x0, found, refined = self.evaluated(mean, x, step)
        if self.config.strength == 0:
            return Edit(out, found)
        delta = self.displacement(x0, found, mean, step)
        if self.config.target != "output":
            added = TARGETS[self.config.target](step.levels) * delta
            if refined is not None:
                added = added + TARGETS["clean"](step.levels) * refined
            return Edit(out, found, added)
        delta = delta if refined is None else delta + refined
        return Edit(displaced(out, delta, step.form, found.usable), found)

    def displacement(
        self, x0: Tensor, found: Evaluation, mean: Tensor, step: StepContext
    ) -> Tensor:
        """delta = s/(1 + C_t/tau²) · n · f · gradient, f the scale and n the normalisation."""
        level, config = step.levels.now, self.config
        raw = SCALES[config.scale](step.levels, self.posterior(level)) * found.gradient
        cfg = None if self.cfg is None else rms(step.form.b * self.cfg.displacement(mean.detach()))
        sizes = StepSizes(rms(raw), rms(x0), cfg, level)
        return normalized(
            raw, sizes, damped(config.strength, level, config.damping), config.normalize
        )

    def evaluated(
        self, out: Tensor, x: Tensor, step: StepContext
    ) -> tuple[Tensor, Evaluation, Tensor | None]:
        """x0 without graph, its reward with the mode's gradient, and the refinement of x0."""
        config, climbs = self.config, self.config.strength > 0
        decoder = self.objective.reading.decoder
        with ExitStack() as stack:
            stack.enter_context(self.graph_allowed())
            stack.enter_context(torch.set_grad_enabled(climbs))
            stack.enter_context(upcast(decoder))
            stack.enter_context(weights_kept(decoder))
            stack.enter_context(self._frozen())
            x0 = self.estimate(out, x, step)
            copies = self._copies(x0.detach(), step)
            at = functools.partial(self._scored, step=step, copies=copies)
            found = at(x0)
            refined: Tensor | None = None
            if config.refine and climbs:
                size = config.refine_strength * SCALES[config.scale](step.levels, 1.0)
                refined = climbed(x0.detach(), found, at, size, config.refine)
            return x0.detach(), self.gradient(found, x0, x), refined

    def _copies(self, x0: Tensor, step: StepContext) -> list[Tensor] | None:
        """Displacements of x0 to average the reward over; None without smoothing."""
        count = self.config.smoothing
        if count == 0:
            return None
        radius = self.config.smoothing_radius * step.levels.now.sigma_bar
        return spread(x0, count, radius, step.random("smoothing", x0.shape[0]))

    def _scored(self, x0: Tensor, *, step: StepContext, copies: list[Tensor] | None) -> Evaluation:
        decode = self.objective.reading.decode
        return evaluate(
            x0,
            lambda latents: decode(self.schedule.finished(latents)),
            self.image_reward(),
            step.random("views", x0.shape[0]),
            differentiate=self.config.strength > 0,
            copies=copies,
            average=self.config.smoothing_average,
        )

    @contextmanager
    def _frozen(self) -> Generator[None]:
        if self.config.strength > 0:
            self.objective.freeze.freeze()
        try:
            yield
        finally:
            self.thawed()


def stays() -> AbstractContextManager[object]:
    """For modes whose graph began outside: inference mode cannot be left half-way."""
    return nullcontext()
