"""The networks of a pipeline that predict noise: find them, stop before a call of one, skip it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.attach.preserve import replaced
from clipguide.attach.unsupported import Unsupported

NAMES = ("unet", "transformer", "transformer_2", "controlnet", "prior", "decoder")
"""Components of diffusers pipelines that run once or more per step."""


def denoisers(pipe: Any) -> list[nn.Module]:
    """The networks called at every step; none where no component has a known name."""
    parts = [pipe.components.get(name) for name in NAMES]
    return [part for part in parts if isinstance(part, nn.Module)]


def main_denoiser(pipe: Any) -> nn.Module:
    """The network that predicts the noise.

    Raises:
        NotImplementedError: none by a known name.
    """
    for name in ("unet", "transformer"):
        module = getattr(pipe, name, None)
        if module is not None:
            return cast(nn.Module, module)
    raise Unsupported(f"{type(pipe).__name__} has no unet or transformer to listen to")


@contextmanager
def first_sample_seen(denoiser: nn.Module, seen: Callable[[Tensor], None]) -> Generator[None]:
    """Calls `seen` with the sample, the first argument, before every call of the denoiser."""

    def tell(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen(args[0])

    handle = denoiser.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def before_denoising(pipe: Any, called: Callable[[], None]) -> Generator[None]:
    """`called` is called before every forward pass of a denoiser.

    Raises:
        NotImplementedError: no denoiser among the pipeline's components.
    """
    modules = denoisers(pipe)
    if not modules:
        expected = f"expected a component named {', '.join(NAMES)}"
        raise Unsupported(f"{type(pipe).__name__}: its denoiser is not known, {expected}")

    def tell(module: nn.Module, args: Any) -> None:
        called()

    handles = [module.register_forward_pre_hook(tell) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def bypassed(pipe: Any, replaying: Callable[[], bool]) -> Generator[None]:
    """While `replaying()` a denoiser that has run before returns zeros instead of being run.

    Only for steps whose model output is replaced afterwards (`observe`). One that has not run yet,
    so that the form of its output is not known, is run.
    """
    with ExitStack() as stack:
        for module in denoisers(pipe):
            stack.enter_context(replaced(module, "forward", _or_zeros(module.forward, replaying)))
        yield


def _or_zeros(original: Callable[..., Any], replaying: Callable[[], bool]) -> Callable[..., Any]:
    row: list[Any] = []  # one row of an output, zeroed

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        batch = _batch_of((*args, *kwargs.values()))
        if replaying() and row and batch:
            return _each_tensor(row[0], lambda t: t.expand(batch, *t.shape[1:]))
        output = original(*args, **kwargs)
        row[:] = [_each_tensor(output, lambda t: torch.zeros_like(t[:1]))]
        return output

    return forward


def _batch_of(values: tuple[Any, ...]) -> int:
    """Length of the latent a denoiser is given, its first argument with a batch; 0: not found."""
    tensors = (v for v in values if isinstance(v, Tensor) and v.ndim >= 3)
    latent = next(tensors, None)
    return 0 if latent is None else latent.shape[0]


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with each tensor changed; diffusers' outputs are dictionaries."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)(**{str(k): _each_tensor(v, change) for k, v in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(_each_tensor(v, change) for v in value)
    return value
