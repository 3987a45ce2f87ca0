"""Module state that guidance changes for a call, put back exactly."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

from torch import nn


def pipeline_modules(pipe: Any) -> list[nn.Module]:
    """Every torch module among a pipeline's components."""
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


class Freeze:
    """Switches `requires_grad` of modules' parameters off, and back to what each one had.

    Off only while a graph is built: under `no_grad` too, torch picks other convolution kernels for
    weights that require no gradient, and unguided steps must keep the bits of an unguided call.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = [*modules]
        self._trained: list[nn.Parameter] = []

    def freeze(self) -> None:
        """No parameter requires a gradient from here on."""
        found = {id(p): p for m in self._modules for p in m.parameters() if p.requires_grad}
        for parameter in found.values():
            parameter.requires_grad_(False)
        self._trained += found.values()

    def thaw(self) -> None:
        """Every frozen parameter requires a gradient again."""
        while self._trained:
            self._trained.pop().requires_grad_(True)


@contextmanager
def checkpointed(modules: Iterable[nn.Module]) -> Generator[None]:
    """Gradient checkpointing is on inside, where a module offers it; less memory, one forward more.

    The results are the same: a checkpointed block computes what it did, twice.
    """
    saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in modules:
        if getattr(module, "_supports_gradient_checkpointing", False):
            parts = [vars(part) for part in module.modules() if _CHECKPOINTING[0] in vars(part)]
            saved += [(part, {k: part[k] for k in _CHECKPOINTING if k in part}) for part in parts]
            enabling: Any = module
            enabling.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for part, before in saved:
            for name in _CHECKPOINTING:
                part.pop(name, None)
            part.update(before)


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
