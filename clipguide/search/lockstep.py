"""Several searches side by side: what they ask for at the same time is done in one.

Each search runs in a thread of its own, but one at a time, from what it asks for to what it asks
for next: threads stand in for coroutines, so that a search method is written as if it were alone.
All that is asked is done by the calling thread, where torch's modes are those of the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch

if TYPE_CHECKING:
    from clipguide.search.rollout import Rollout
    from clipguide.search.works import Work

T = TypeVar("T")


@dataclass(frozen=True)
class _Asked:
    """A work that a search waits for."""

    work: Work[Any, Any]
    owners: Sequence[Rollout]
    items: Sequence[Any]


class _Left(BaseException):
    """Ends a search that nobody waits for; caught by its thread."""


class _Lane(Generic[T]):
    """One search in its thread.

    Attributes:
        asked: what it waits for; None before it began and after it ended.
        answer: the results of that.
    """

    def __init__(self, search: Callable[[], T]) -> None:
        self.asked: _Asked | None = None
        self.answer: Sequence[Any] = []
        self._search, self._error = search, cast("BaseException | None", None)
        self._found: list[T] = []
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._leaving = False
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        # contextvars are a thread's own as torch's modes are
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run, *modes), daemon=True
        )
        self._thread.start()

    def go(self) -> None:
        """Lets the search run to what it asks for next, or to its end; its error is raised here."""
        self.asked = None
        self._turn.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def ask(self, asked: _Asked) -> Sequence[Any]:
        """From the search's thread: waits for the results."""
        self.asked = asked
        self._back.release()
        self._turn.acquire()
        if self._leaving:
            raise _Left
        return self.answer

    def leave(self) -> None:
        """Ends the thread."""
        self._leaving = True
        self._turn.release()
        self._thread.join()

    def found(self) -> T:
        """What the search returned."""
        return self._found[0]

    def _run(self, grad: bool, inference: bool) -> None:
        self._turn.acquire()
        _PLACE.lane = self
        try:
            if not self._leaving:
                with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                    self._found.append(self._search())
        except _Left:
            pass
        except BaseException as error:  # raised again where `go` was called
            self._error = error
        self.asked = None
        self._back.release()


_PLACE = threading.local()
"""Which lane a thread is."""


def in_lockstep(searches: Sequence[Callable[[], T]]) -> list[T]:
    """What the searches return, in order.

    They ask by `together`. What is asked by works that compare equal is done in one, in the order
    of the searches; so the result is a function of the searches alone. An exception of one, or an
    interruption, ends them all.
    """
    lanes = [_Lane(search) for search in searches]
    try:
        for lane in lanes:
            lane.go()
        while waiting := [lane for lane in lanes if lane.asked is not None]:
            for alike in _alike(waiting):
                _answer(alike)
            for lane in waiting:
                lane.go()
    finally:
        for lane in lanes:
            lane.leave()
    return [lane.found() for lane in lanes]


def together(work: Work[Any, T], owners: Sequence[Rollout], items: Sequence[Any]) -> Sequence[T]:
    """The results of a work's items; inside `in_lockstep`, together with other searches'."""
    lane: _Lane[Any] | None = getattr(_PLACE, "lane", None)
    if lane is None:
        return work(owners, items)
    return lane.ask(_Asked(work, owners, items))


def _alike(waiting: Sequence[_Lane[T]]) -> list[list[_Lane[T]]]:
    """The lanes in groups that wait for works that compare equal."""
    groups: list[list[_Lane[T]]] = []
    for lane in waiting:
        group = next((g for g in groups if _work(g[0]) == _work(lane)), None)
        if group is None:
            groups.append([lane])
        else:
            group.append(lane)
    return groups


def _work(lane: _Lane[Any]) -> Any:
    return None if lane.asked is None else lane.asked.work


def _answer(lanes: Sequence[_Lane[Any]]) -> None:
    asked = [lane.asked for lane in lanes if lane.asked is not None]
    owners = [owner for one in asked for owner in one.owners]
    items = [item for one in asked for item in one.items]
    results = [*asked[0].work(owners, items)]
    for lane, one in zip(lanes, asked, strict=True):
        lane.answer, results = results[: len(one.items)], results[len(one.items) :]
