"""Module state that guidance changes for a call, put back exactly."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def pipeline_modules(pipe: Any) -> list[nn.Module]:
    """Every torch module among a pipeline's components."""
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


class Freeze:
    """Switches `requires_grad` of modules' parameters off, and back to what each one had.

    Off only while a graph is built: under `no_grad` too, torch picks other convolution kernels for
    weights that require no gradient, and unguided steps must keep the bits of an unguided call.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = [*modules]
        # the places, not the parameters: sequential offloading puts others there at every call
        self._trained: list[tuple[nn.Module, str]] = []

    def freeze(self) -> None:
        """No parameter requires a gradient from here on."""
        parts = [part for module in self.modules for part in module.modules()]
        for part in parts:
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.requires_grad:
                    parameter.requires_grad_(False)
                    self._trained.append((part, name))

    def thaw(self) -> None:
        """Every frozen parameter requires a gradient again."""
        while self._trained:
            part, name = self._trained.pop()
            part.get_parameter(name).requires_grad_(True)


def group_offloaded(module: nn.Module) -> bool:
    """Whether diffusers' group offloading takes weights of this module away after their use."""
    registries = [getattr(part, "_diffusers_hook", None) for part in module.modules()]
    return any(r is not None and "group_offloading" in r.hooks for r in registries)


@contextmanager
def weights_kept(module: nn.Module | None) -> Generator[None]:
    """What a graph built inside saved is still there in its backward pass.

    Group offloading writes other data into the very parameters that the graph has saved. Here it
    saves aliases of the data they held. Cost: the module's weights stay until the backward pass.
    """
    if module is None or not group_offloaded(module):
        yield
        return
    with torch.autograd.graph.saved_tensors_hooks(_alias, _unchanged):
        yield


def _alias(tensor: Tensor) -> Tensor:
    return tensor.detach()


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def checkpointed(modules: Iterable[nn.Module]) -> Generator[None]:
    """Gradient checkpointing is on inside, where a module offers it; less memory, one forward more.

    The results are the same: a checkpointed block computes what it did, twice.
    """
    saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in modules:
        supported = getattr(module, "_supports_gradient_checkpointing", False)
        if supported and type(module).__name__ not in _OTHER_WHEN_CHECKPOINTED:
            parts = [vars(part) for part in module.modules() if _CHECKPOINTING[0] in vars(part)]
            saved += [(part, {k: part[k] for k in _CHECKPOINTING if k in part}) for part in parts]
            enabling: Any = module
            enabling.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for part, before in reversed(saved):  # a module may be listed twice
            for name in _CHECKPOINTING:
                part.pop(name, None)
            part.update(before)


# diffusers 0.42: with checkpointing the single blocks of Chroma are not given the attention mask
_OTHER_WHEN_CHECKPOINTED = ("ChromaTransformer2DModel",)

_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")


@contextmanager
def replaced(target: Any, name: str, value: Any) -> Generator[None]:
    """`target.name` is `value` inside, as an attribute of the instance; its own again after."""
    before = vars(target).get(name)
    vars(target)[name] = value
    try:
        yield
    finally:
        del vars(target)[name]
        if before is not None:
            vars(target)[name] = before


@contextmanager
def undone_when_left(pipe: Any) -> Generator[None]:
    """A pipeline call that is left by an exception leaves the modules as they were.

    Some pipelines change their modules for a call and change them back after their loop (PAG sets
    attention processors of its own), which an exception skips. Parameters and buffers stay where
    they are: offloading moves them.
    """
    parts = [part for module in pipeline_modules(pipe) for part in module.modules()]
    attributes = [(part, dict(vars(part))) for part in parts]
    tables = [(t, dict(t)) for _, own in attributes for n, t in own.items() if _is_table(n)]
    try:
        yield
    except BaseException:
        for part, own in attributes:
            vars(part).clear()
            vars(part).update(own)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        raise


def _is_table(name: str) -> bool:
    """Whether a module's attribute is one of torch's dictionaries of children or of hooks."""
    return name == "_modules" or (name.startswith("_") and name.endswith("_hooks"))


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
