"""What a picture costs in denoiser calls, and which classifier-free scale pushes as hard as CLIP.

"Guidance Matters" (https://arxiv.org/abs/2602.22570): a gain of guidance has to be held against
plain classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598) at the scale
whose displacement has the same norm.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from clipguide.attach.cfg import CfgTap
from clipguide.attach.denoisers import denoisers, main_denoiser
from clipguide.attach.hook import HOOKS, StepHook, rehooked
from clipguide.attach.preserve import replaced

BACKWARD = 2
"""Calls that a backward pass through a denoiser counts as."""


@dataclass
class Spent:
    """Rows that went through the denoisers; with classifier-free guidance two for a step."""

    rows: int = 0


@contextmanager
def counted(pipe: Any) -> Generator[Spent]:
    """Counts while the context is open. A call whose gradient is wanted counts as three.

    Example:
        >>> with counted(pipe) as spent:
        ...     pipe("a red star", num_inference_steps=25, guidance_scale=3.0)
        >>> spent.rows
        50
    """
    spent = Spent()

    with ExitStack() as stack:
        for module in denoisers(pipe):  # their forward, which a search replaces where it replays
            stack.enter_context(replaced(module, "forward", _counting(module.forward, spent)))
        yield spent


def _counting(original: Callable[..., Any], spent: Spent) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        first: Any = output[0]
        if isinstance(first, Tensor):
            spent.rows += len(first) * (1 + BACKWARD * first.requires_grad)
        return output

    return forward


@dataclass
class Displacements:
    """Norms of what moved the model output at every step of every picture.

    Attributes:
        own: by CLIP.
        free: by classifier-free guidance, guided less unconditional.
    """

    own: list[float] = field(default_factory=list[float])
    free: list[float] = field(default_factory=list[float])

    def matched_scale(self, scale: float) -> float:
        """The scale whose displacement is longer than that of `scale` by CLIP's, averaged over the
        steps: w·(1 + Σ‖own‖/Σ‖free‖), the free displacement being proportional to w.

        Raises:
            ValueError: nothing was displaced, by the one or the other.
        """
        if not sum(self.free) or not sum(self.own):
            raise ValueError(
                "got no displacement to match, expected guidance with a strength above 0, and "
                "classifier-free guidance beside it"
            )
        return scale * (1 + sum(self.own) / sum(self.free))


class _Meter:
    """Stands before guidance's own hook and sees what it does to the model output."""

    def __init__(self, inner: StepHook, tap: CfgTap, found: Displacements) -> None:
        self._inner, self._tap, self._found = inner, tap, found

    def timesteps_set(self) -> None:
        self._inner.timesteps_set()

    def step(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        signature = inspect.signature(original)
        raw: Tensor = signature.bind(*args, **kwargs).arguments["model_output"].detach()

        @functools.wraps(original)  # guidance reads its signature
        def measured(*args: Any, **kwargs: Any) -> Any:
            edited: Tensor = signature.bind(*args, **kwargs).arguments["model_output"].detach()
            self._found.own += _norms(edited - raw)
            self._found.free += _norms(self._tap.displacement(raw))
            return original(*args, **kwargs)

        return self._inner.step(measured, args, kwargs)


def _norms(x: Tensor) -> list[float]:
    return x.float().flatten(1).norm(dim=1).tolist()


@contextmanager
def displacements(pipe: Any) -> Generator[Displacements]:
    """Measures the pipeline's calls; enter it inside `guide`.

    Raises:
        ValueError: no classifier-free guidance in one batch (at the first step).
        KeyError: it is not inside `guide`.
    """
    found, tap = Displacements(), CfgTap()
    meter = _Meter(HOOKS[pipe.scheduler], tap, found)
    with tap.on(main_denoiser(pipe)), rehooked(pipe.scheduler, meter):
        yield found
