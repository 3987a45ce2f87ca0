"""Mode xt from inside a `@torch.no_grad` pipeline: the graph from latents to model output.

Gradients are on from the latents handed to the denoiser until the step that takes them, and only
where that step is guided: each step returns a detached tensor, which starts the next graph. So
unguided steps and the final decode build none. What the pipeline computes in between, packing,
classifier-free guidance, rescaling, is in the graph as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.attach.preserve import Freeze, group_offloaded


class ExactGraph:
    """Switches gradients on before a guided step and off after it."""

    def __init__(self, freeze: Freeze) -> None:
        self._freeze = freeze
        self._outside = torch.is_grad_enabled()
        self._handed: Tensor | None = None

    def begin(self) -> None:
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

    def hand(self, latents: Tensor, *, guided: bool) -> Tensor:
        """The latents for the next step, where a graph starts if that step is guided."""
        self.release()
        torch.set_grad_enabled(guided or self._outside)
        if not guided:
            self._freeze.thaw()
            return latents.detach()
        self._freeze.freeze()
        # the clone is no leaf, so that callbacks may still write into it
        self._handed = latents.detach().requires_grad_().clone()
        return self._handed

    def start(self, sample: Tensor) -> None:
        """A graph starts at this very tensor, which the step to come will be given.

        For pipelines that make their first sample themselves and hand it on as it is.
        """
        self.release()
        torch.set_grad_enabled(True)
        self._freeze.freeze()
        self._handed = sample.requires_grad_()

    def release(self) -> None:
        """Cuts the latents last handed out from their graph, wherever they are held."""
        if self._handed is not None:
            self._handed.detach_()
        self._handed = None

    def check(self, latents: Tensor, output: Tensor) -> None:
        """Raises where a guided step has no graph.

        Raises:
            RuntimeError: the latents were detached on the way.
        """
        if not (latents.requires_grad and output.requires_grad):
            raise RuntimeError(
                "mode='xt' found latents without a graph at a guided step: a callback returned "
                "detached latents, or the denoiser ran elsewhere; keep the graph or use mode='x0'"
            )


@contextmanager
def first_sample_seen(denoiser: nn.Module, seen: Callable[[Tensor], None]) -> Generator[None]:
    """`seen` is told of the sample, its first argument, before every call of the denoiser."""

    def tell(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen(args[0])

    handle = denoiser.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def grad_mode_restored() -> Generator[None]:
    """Whatever happens inside, gradients are afterwards enabled as before."""
    before = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(before)


def refuse_offload(pipe: Any) -> None:
    """Raises if a component's weights leave the device after its forward pass.

    Raises:
        RuntimeError: an offloaded component; its gradients would come out wrong.
    """
    for name, part in pipe.components.items():
        if not isinstance(part, nn.Module):
            continue
        if group_offloaded(part) or any(_is_offloaded(m) for m in part.modules()):
            raise RuntimeError(
                f"got offloading on {name}, expected weights that stay for the backward pass: "
                "mode='xt' cannot be right with it; mode='x0' is"
            )


def _is_offloaded(module: nn.Module) -> bool:
    """Whether accelerate moves this module's weights away after its forward pass."""
    hook = getattr(module, "_hf_hook", None)
    hooks: list[Any] = getattr(hook, "hooks", [hook])
    return any(type(h).__name__ == "CpuOffload" or getattr(h, "offload", False) for h in hooks)
