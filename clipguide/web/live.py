"""Work in a thread of its own: its news are read while it goes on, and it can be called off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

News = TypeVar("News")
Result = TypeVar("Result")
Tell = Callable[[News], None]


class CalledOff(Exception):
    """Raised inside the work, from `tell`, once nobody waits for it any more."""


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The last thing that `followed` gives: what the work returned."""

    result: Result


def followed(
    work: Callable[[Tell[News]], Result], stop: threading.Event
) -> Iterator[News | Done[Result]]:
    """What `work` tells, as it tells it, then its result.

    Args:
        work: is given the function by which it tells; run in a thread.
        stop: once it is set, or the iteration is left, telling raises `CalledOff` in the work. The
            iteration ends after the work has: the next work never overlaps it.

    Raises:
        CalledOff: it was stopped; else what the work raised.

    Example:
        >>> def work(tell):
        ...     tell("half")
        ...     return 1
        >>> list(followed(work, threading.Event()))
        ['half', Done(result=1)]
    """
    told: queue.Queue[Any] = queue.Queue()  # News, at last Done or an exception

    def tell(news: News) -> None:
        if stop.is_set():
            raise CalledOff
        told.put(news)

    def run() -> None:
        try:
            told.put(Done(work(tell)))
        except BaseException as error:  # handed to who follows
            told.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            news = told.get()
            if isinstance(news, BaseException):
                raise news
            yield news
            if isinstance(news, Done):
                return
    finally:
        stop.set()
        thread.join()


def wait_for(future: Future[Any], stop: threading.Event) -> None:
    """Until it is done. CalledOff: `stop` was set before; else what the future raises."""
    while not stop.is_set():
        try:
            future.result(timeout=_PATIENCE)
        except TimeoutError:
            if future.done():  # the work's own
                raise
        else:
            return
    raise CalledOff


_PATIENCE = 0.1
"""Seconds between two looks at whether it was called off."""
