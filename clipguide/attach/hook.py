"""Into `scheduler.step` by a dynamic subclass of the scheduler's own class.

The instance's class is swapped for a subclass of the same name and module, so `isinstance`,
signatures, configs and saved files stay what they were. Who is hooked is remembered outside the
instance: a copy of a hooked scheduler is a plain scheduler of the original class, on its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary


class StepHook(Protocol):
    """What a hooked scheduler calls in the place of its own methods."""

    def timesteps_set(self) -> None:
        """`set_timesteps` was called: a new run begins."""
        ...

    def step(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Stands in for `step`; `original` is the scheduler's own, bound."""
        ...


HOOKS: WeakKeyDictionary[Any, StepHook] = WeakKeyDictionary()
"""Hooked scheduler -> who stands in for its step; `hooked` and `rehooked` alone write to it."""


@functools.cache
def _hooked_class(plain: type[Any]) -> type[Any]:
    """A subclass of a scheduler class that asks the instance's hook, if it has one."""

    @functools.wraps(plain.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        original = functools.partial(plain.step, self)
        hook = HOOKS.get(self)
        return original(*args, **kwargs) if hook is None else hook.step(original, args, kwargs)

    @functools.wraps(plain.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = plain.set_timesteps(self, *args, **kwargs)
        hook = HOOKS.get(self)
        if hook is not None:
            hook.timesteps_set()
        return result

    def reduce_as_plain(self: Any, protocol: Any) -> Any:
        """Copies and pickles are of the plain class."""
        constructor, (_, *rest), *state = super(hooked, self).__reduce_ex__(protocol)
        return (constructor, (plain, *rest), *state)

    members = {
        "__module__": plain.__module__,
        "__qualname__": plain.__qualname__,
        "__doc__": plain.__doc__,
        "__reduce_ex__": reduce_as_plain,
        "step": step,
        "set_timesteps": set_timesteps,
    }
    hooked = _passing_for(plain)(plain.__name__, (plain,), members)
    return hooked


def _passing_for(plain: type[Any]) -> type[Any]:
    """A metaclass whose classes equal `plain`: `type(scheduler) != Euler` stays false when hooked.

    diffusers' Bria asks that, and a user's own code or a table keyed by class may.
    """

    def same(cls: Any, other: Any) -> bool:
        return other is plain or other is cls

    def key(cls: Any) -> int:
        return hash(plain)

    return type(type(plain).__name__, (type(plain),), {"__eq__": same, "__hash__": key})


@contextmanager
def hooked(scheduler: Any, hook: StepHook) -> Generator[None]:
    """`hook` stands in for `scheduler.step` while the context is open.

    Raises:
        RuntimeError: the scheduler is hooked already.
    """
    refuse_hooked(scheduler)
    plain = type(scheduler)
    HOOKS[scheduler] = hook
    scheduler.__class__ = _hooked_class(plain)
    try:
        yield
    finally:
        scheduler.__class__ = plain
        del HOOKS[scheduler]


@contextmanager
def rehooked(scheduler: Any, outer: StepHook) -> Generator[None]:
    """`outer` in the place of the scheduler's hook, which it is to call itself."""
    inner = HOOKS[scheduler]
    HOOKS[scheduler] = outer
    try:
        yield
    finally:
        HOOKS[scheduler] = inner


def refuse_hooked(scheduler: Any) -> None:
    """Raises if someone stands in for the scheduler's step already.

    Raises:
        RuntimeError: the scheduler is hooked.
    """
    if scheduler in HOOKS:
        raise RuntimeError(
            f"this {type(scheduler).__name__} is already inside a guide() context; add the rewards "
            "(0.5 * a + 0.5 * b) instead of nesting"
        )
