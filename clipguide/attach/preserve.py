"""Module state that guidance changes for a call, put back exactly."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def pipeline_modules(pipe: Any) -> list[nn.Module]:
    """Every torch module among a pipeline's components."""
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


_LOCK = threading.RLock()
"""Over what several contexts, of pipelines that share modules, write to."""

ParameterSlot = tuple[nn.Module, str]
"""Where a parameter is: sequential offloading puts others there at every call."""

_FROZEN: dict[ParameterSlot, int] = {}
"""Parameter switched off -> how many contexts want it so."""


class Freeze:
    """Switches `requires_grad` of modules' parameters off, and back to what each one had.

    Off only while a graph is built: under `no_grad` too, torch picks other convolution kernels for
    weights that require no gradient, and unguided steps must keep the bits of an unguided call.
    What several contexts froze is switched on by the last of them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.modules = [*modules]
        self._places: set[ParameterSlot] = set()

    def freeze(self) -> None:
        """No parameter requires a gradient from here on."""
        parts = [part for module in self.modules for part in module.modules()]
        with _LOCK:
            for part in parts:
                for name, parameter in part.named_parameters(recurse=False):
                    self._freeze((part, name), parameter)

    def _freeze(self, place: ParameterSlot, parameter: nn.Parameter) -> None:
        trained = parameter.requires_grad
        if trained:
            parameter.requires_grad_(False)
        if place not in self._places and (trained or place in _FROZEN):
            _FROZEN[place] = _FROZEN.get(place, 0) + 1
            self._places.add(place)

    def thaw(self) -> None:
        """Every frozen parameter requires a gradient again."""
        with _LOCK:
            while self._places:
                place = self._places.pop()
                _FROZEN[place] -= 1
                if not _FROZEN[place]:
                    del _FROZEN[place]
                    part, name = place
                    part.get_parameter(name).requires_grad_(True)


def group_offloaded(module: nn.Module) -> bool:
    """Whether diffusers' group offloading takes weights of this module away after their use."""
    return bool(diffusers_hooks(module, "group_offloading"))


def cast_layerwise(module: nn.Module) -> bool:
    """Whether diffusers keeps weights of this module in a smaller type between their uses."""
    return bool(diffusers_hooks(module, "layerwise_casting"))


def diffusers_hooks(module: nn.Module, name: str) -> list[Any]:
    """The hooks of this name that diffusers put on the module or on parts of it."""
    registries: list[Any] = [getattr(part, "_diffusers_hook", None) for part in module.modules()]
    return [r.hooks[name] for r in registries if r is not None and name in r.hooks]


@contextmanager
def weights_kept(module: nn.Module | None) -> Generator[None]:
    """What a graph built inside saved is still there in its backward pass.

    Group offloading and layerwise casting write other data into the very parameters that the graph
    has saved. Here it saves aliases of the data they held. Cost: the module's weights, in the type
    they are computed in, stay until the backward pass.
    """
    if module is None or not (group_offloaded(module) or cast_layerwise(module)):
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

    Raises:
        RuntimeError: a module whose weights are put away after each use: the block computed again
            would have saved what they are put away as.
    """
    modules = [*modules]
    for module in modules:
        if cast_layerwise(module) or group_offloaded(module):
            how = "layerwise casting" if cast_layerwise(module) else "group offloading"
            raise RuntimeError(
                f"got checkpoint=True with {how} on {type(module).__name__}, expected "
                "checkpoint=False: what is computed again in the backward pass would read weights "
                "that have been put away"
            )
    with ExitStack() as stack:
        for module in modules:
            supported = getattr(module, "_supports_gradient_checkpointing", False)
            if supported and type(module).__name__ not in _OTHER_WHEN_CHECKPOINTED:
                for part, name, value in _checkpointing(module):
                    stack.enter_context(replaced(part, name, value))
        yield


def _checkpointing(module: Any) -> list[tuple[nn.Module, str, Any]]:
    """The attributes that switch it on, by asking the module to and undoing that."""
    parts: list[nn.Module] = [part for part in module.modules() if _CHECKPOINTING[0] in vars(part)]
    with _LOCK:
        before = [{k: v for k, v in vars(part).items() if k in _CHECKPOINTING} for part in parts]
        module.enable_gradient_checkpointing()
        found = [(part, k, vars(part)[k]) for part in parts for k in _CHECKPOINTING]
        for part, own in zip(parts, before, strict=True):
            for name in _CHECKPOINTING:
                vars(part).pop(name, None)
            vars(part).update(own)
    return found


# diffusers 0.42: with checkpointing the single blocks of Chroma are not given the attention mask
_OTHER_WHEN_CHECKPOINTED = ("ChromaTransformer2DModel",)

_CHECKPOINTING = ("gradient_checkpointing", "_gradient_checkpointing_func")


@dataclass
class _Replaced:
    """An attribute with the values in its place, newest last."""

    target: Any  # a reference: while it lives, no other object gets its id
    own: dict[str, Any]  # {name: value}, or empty where the class had it
    original: Any
    values: list[Any]


_REPLACED: dict[tuple[int, str], _Replaced] = {}


@contextmanager
def replaced(target: Any, name: str, value: Any) -> Generator[None]:
    """`target.name` is `value` inside, as an attribute of the instance; its own again after.

    Contexts over one target may be left in any order: the newest that is open is in force, and
    the last to be left restores what was there before the first.
    """
    key, layer = (id(target), name), [value]  # a list, so that equal values differ by identity
    with _LOCK:
        if key not in _REPLACED:
            own = {name: vars(target)[name]} if name in vars(target) else {}
            _REPLACED[key] = _Replaced(target, own, getattr(target, name, None), [])
        _REPLACED[key].values.append(layer)
        vars(target)[name] = value
    try:
        yield
    finally:
        with _LOCK:
            state = _REPLACED[key]
            state.values = [other for other in state.values if other is not layer]
            vars(target).pop(name, None)
            if state.values:
                vars(target)[name] = state.values[-1][0]
            else:
                del _REPLACED[key]
                vars(target).update(state.own)


def original(target: Any, name: str) -> Any:
    """`target.name` without what `replaced` put in its place."""
    with _LOCK:
        state = _REPLACED.get((id(target), name))
        return getattr(target, name) if state is None else state.original


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
            kept = {name: vars(part)[name] for name in _PATCHED if name in vars(part)}
            vars(part).clear()
            vars(part).update({k: v for k, v in own.items() if k not in _PATCHED} | kept)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        raise


# methods that contexts and offloading put others in the place of, and take back themselves
_PATCHED = ("forward", "decode")


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
