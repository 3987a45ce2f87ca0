"""What a pipeline's loop over `scheduler.timesteps` yields: a step once more, another timestep.

The loop is the pipeline's own (`for t in scheduler.timesteps`), so the only way to repeat a step in
it, or to give the denoiser another timestep than the scheduler's, is the tensor that it iterates
over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.preserve import replaced

Shown = Callable[[Tensor], Tensor]
"""A timestep of the scheduler's -> the one that the loop is to give the denoiser."""


@contextmanager
def timesteps_chosen(pipe: Any, chosen: Callable[[int], None]) -> Generator[None]:
    """`chosen` is told how many timesteps `pipe.get_timesteps` leaves of the scheduler's.

    So image-to-image pipelines drop the first of them; nothing is done for others.
    """
    original = getattr(pipe, "get_timesteps", None)
    if original is None:
        yield
        return

    @functools.wraps(original)
    def get_timesteps(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        chosen(len(result[0] if isinstance(result, tuple) else result))
        return result

    with replaced(pipe, "get_timesteps", get_timesteps):
        yield


class TimestepLoop:
    """Stands in for the timesteps of one scheduler, as a tensor of the same numbers.

    Args:
        scheduler: whose timesteps they are.
        shown: asked for each timestep when its turn has come; None leaves them as they are.
    """

    def __init__(self, scheduler: Any, shown: Shown | None = None) -> None:
        self._scheduler, self._shown = scheduler, shown or _itself
        self._asked = False

    def install(self) -> None:
        """The scheduler's timesteps, just set, are followed from here on."""
        self._asked = False
        timesteps: Tensor | None = self._scheduler.timesteps
        if timesteps is not None:
            self._scheduler.timesteps = _followed(_plain(timesteps), self._answer, self._shown)

    def restore(self) -> None:
        """The scheduler's timesteps are an ordinary tensor again."""
        self._scheduler.timesteps = _plain(self._scheduler.timesteps)

    def repeat(self) -> None:
        """The step just taken is to be yielded again; the scheduler is wound back."""
        self._asked = True
        if getattr(self._scheduler, "step_index", None) is not None:
            self._scheduler._step_index -= 1

    def check(self) -> None:
        """Raises if the loop went on instead.

        Raises:
            RuntimeError: a loop that does not iterate over the scheduler's timesteps.
        """
        if self._asked:
            raise RuntimeError(
                "recurrence: the loop did not take the step again; expected one that iterates "
                "over scheduler.timesteps as set_timesteps leaves them"
            )

    def _answer(self) -> bool:
        asked, self._asked = self._asked, False
        return asked


def _itself(timestep: Tensor) -> Tensor:
    return timestep


def _plain(timesteps: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
        plain: Tensor = timesteps.as_subclass(Tensor)
    return plain


def _followed(timesteps: Tensor, again: Callable[[], bool], shown: Shown) -> Tensor:
    """The same numbers, as a tensor whose iteration yields `shown(value)`, again while `again()`.

    So do its slices, which image-to-image loops over; all else that is made of it is plain.
    """

    class Followed(Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

        def __iter__(self) -> Iterator[Tensor]:
            for timestep in _plain(self):
                yield shown(timestep)
                while again():
                    yield shown(timestep)

        def __getitem__(self, index: Any) -> Tensor:
            chosen = _plain(self)[index]
            return _followed(chosen, again, shown) if isinstance(index, slice) else chosen

    followed: Tensor = timesteps.as_subclass(Followed)
    return followed
