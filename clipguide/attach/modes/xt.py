"""Mode xt: the exact gradient at the noisy latent, through denoiser and classifier-free guidance.

delta = s · (sigma²/alpha) · g, with g = ∂reward/∂x_t, that is eps' = eps - s·sigma·g: classifier
guidance (Dhariwal & Nichol 2021, Algorithm 2, https://arxiv.org/abs/2105.05233) with the reward of
the plug-in estimate x0(x_t), as in DPS (Chung et al. 2023, Algorithm 1,
https://arxiv.org/abs/2209.14687). Cost: that of mode x0 and the denoiser's backward pass.

The graph is built from inside a `@torch.no_grad` pipeline. Gradients are on from the latents handed
to the denoiser until the step that takes them, and only where that step is guided: each step
returns a detached tensor, which starts the next graph. So unguided steps and the final decode build
none. What the pipeline computes in between, packing, classifier-free guidance, rescaling, is in the
graph as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.attach.layouts import DIRECT, GIVEN_START, is_a, prepare_method
from clipguide.attach.modes.base import NextStep, Objective, StepContext
from clipguide.attach.modes.plug_in import PlugIn, stays
from clipguide.attach.preserve import (
    cast_layerwise,
    grad_mode_restored,
    pipeline_modules,
    refuse_offload,
    replaced,
    weights_kept,
)
from clipguide.attach.schedule import Schedule
from clipguide.attach.unsupported import Unsupported
from clipguide.guidance.gradient import Evaluation, pulled_back
from clipguide.guidance.parameterization import NoiseLevel


class ExactGradient(PlugIn):
    """The plug-in reward climbed at x_t."""

    acts_after_step = True
    graph_through_denoiser = True

    def __init__(self, objective: Objective, schedule: Schedule) -> None:
        super().__init__(objective, schedule)
        self._outside = torch.is_grad_enabled()
        self._graph_starts: Tensor | None = None  # the latents last handed to the denoiser

    def enter(self, stack: ExitStack, pipe: Any) -> None:
        """Gradient mode is restored at exit, and no graph is in what the pipeline itself decodes.

        Raises:
            RuntimeError: offloading, which takes weights away before the backward pass.
            NotImplementedError: a pipeline without a place where the graph can start.
        """
        refuse_offload(pipe)
        stack.enter_context(grad_mode_restored())
        stack.callback(self._release)
        if prepare_method(pipe) is None and not is_a(pipe, DIRECT):
            raise Unsupported(
                f"{type(pipe).__name__} has no prepare_latents, where mode='xt' starts; use "
                "mode='x0'"
            )
        if is_a(pipe, GIVEN_START):
            raise Unsupported(
                f"{type(pipe).__name__} begins from latents that it is given, and not from its "
                "prepare_latents, where mode='xt' starts; use mode='x0'"
            )
        for part in pipeline_modules(pipe):
            if cast_layerwise(part):
                stack.enter_context(replaced(part, "forward", _weights_kept(part)))
            decode = getattr(part, "decode", None)
            if callable(decode):  # an interrupted loop reaches the final decode with a graph
                stack.enter_context(replaced(part, "decode", torch.no_grad()(decode)))

    def defined_at(self, level: NoiseLevel) -> bool:
        """sigma²/alpha is infinite at pure noise."""
        return level.alpha > 0 and super().defined_at(level)

    # ----------------------------------------------------------------------- where the graph is

    def _begin(self) -> None:
        """A pipeline call starts; the gradient mode it runs in is the one between guided steps.

        Raises:
            RuntimeError: inference mode, in which no graph can be built.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "got torch.inference_mode, expected torch.no_grad: mode='xt' builds a graph; "
                "mode='x0' works in both"
            )
        self._outside = torch.is_grad_enabled()

    def first(self, latents: Tensor, *, guided: bool) -> Tensor:
        """The first graph starts at the latents that the pipeline prepared."""
        self._begin()
        return self._hand(latents, guided=guided)

    def denoiser_called(self, sample: Tensor, *, guided: bool) -> None:
        """The first graph starts at this very tensor, which the step to come will be given."""
        self._begin()
        if guided:
            self._release()
            torch.set_grad_enabled(True)
            self.objective.freeze.freeze()
            self._graph_starts = sample.requires_grad_()

    def stepped(self, original: Callable[..., Any], given: Any) -> Any:
        """The scheduler's step is in no graph."""
        values = given.arguments
        values["model_output"] = values["model_output"].detach()
        values["sample"] = values["sample"].detach()
        with torch.no_grad():
            return super().stepped(original, given)

    def handed(self, sample: Tensor, following: NextStep) -> Tensor:
        """The next graph starts here if the next step is guided; an unused one costs time alone."""
        return self._hand(sample, guided=following.guided)

    def _hand(self, latents: Tensor, *, guided: bool) -> Tensor:
        self._release()
        torch.set_grad_enabled(guided or self._outside)
        if not guided:
            self.objective.freeze.thaw()
            return latents.detach()
        self.objective.freeze.freeze()
        # the clone is no leaf, so that callbacks may still write into it
        self._graph_starts = latents.detach().requires_grad_().clone()
        return self._graph_starts

    def _release(self) -> None:
        """Cuts the latents last handed out from their graph, wherever they are held."""
        if self._graph_starts is not None:
            self._graph_starts.detach_()
        self._graph_starts = None

    # ------------------------------------------------------------------------------ the gradient

    def posterior(self, level: NoiseLevel) -> float:
        """sigma²/alpha: classifier guidance."""
        return level.sigma**2 / level.alpha

    def estimate(self, out: Tensor, x: Tensor, step: StepContext) -> Tensor:
        """x0 with its graph back to x.

        Raises:
            RuntimeError: the latents were detached on the way.
        """
        if self.config.strength == 0:
            return super().estimate(out, x, step)
        if not (x.requires_grad and out.requires_grad):
            raise RuntimeError(
                "mode='xt' found latents without a graph at a guided step: a callback returned "
                "detached latents, or the denoiser ran elsewhere; keep the graph or use mode='x0'"
            )
        return step.form.x0(x, out)

    def gradient(self, found: Evaluation, x0: Tensor, x: Tensor) -> Evaluation:
        """Pulled back through the denoiser, once however many copies were scored."""
        return found if self.config.strength == 0 else pulled_back(found, x0, x)

    def graph_allowed(self) -> AbstractContextManager[object]:
        """The graph began outside."""
        return stays()

    def thawed(self) -> None:
        """Not yet: the denoiser's backward pass is done, but its next call may be in a graph."""


def _weights_kept(part: nn.Module) -> Callable[..., Any]:
    """The part's forward pass; its graph keeps the weights that it ran with."""
    original = part.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with weights_kept(part):
            return original(*args, **kwargs)

    return forward
