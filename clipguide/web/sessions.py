"""Who is running what, so that everybody calls off their own work alone."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from clipguide.extras import need

Function = TypeVar("Function")


def asks_who(function: Function) -> Function:
    """Has Gradio give a function its `request`, which it does by the annotation."""
    noted: Any = function
    noted.__annotations__["request"] = need("gradio", "web").Request
    return function


class Sessions:
    """The running work of each visitor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, set[threading.Event]] = {}

    @contextmanager
    def running(self, visitor: str) -> Generator[threading.Event]:
        """An event that `call_off` sets, for as long as the work goes on."""
        stop = threading.Event()
        with self._lock:
            self._running.setdefault(visitor, set()).add(stop)
        try:
            yield stop
        finally:
            with self._lock:
                left = self._running.get(visitor, set())
                left.discard(stop)
                if not left:
                    self._running.pop(visitor, None)

    def call_off(self, visitor: str) -> None:
        """All that this visitor has running."""
        with self._lock:
            for stop in self._running.get(visitor, ()):
                stop.set()
