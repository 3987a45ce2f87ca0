"""Work of the page that is followed while it goes on, and called off by who asked for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from clipguide.web.live import CalledOff, Done, followed
from clipguide.web.sessions import Sessions


def test_news_come_in_order_and_the_result_last() -> None:
    def work(tell: Callable[[int], None]) -> str:
        for number in range(5):
            tell(number)
        return "made"

    assert list(followed(work, threading.Event())) == [0, 1, 2, 3, 4, Done("made")]


def test_what_the_work_raises_is_raised_here() -> None:
    def work(tell: Callable[[int], None]) -> None:
        tell(1)
        raise ValueError("got 1")

    found = followed(work, threading.Event())
    assert next(found) == 1
    with pytest.raises(ValueError, match="got 1"):
        next(found)


@pytest.mark.parametrize("how", ["event", "left"])
def test_work_that_nobody_waits_for_ends(how: str) -> None:
    """And it has ended when the iteration has: the next one never overlaps it."""
    ended: list[type[BaseException]] = []
    stop = threading.Event()

    def work(tell: Callable[[int], None]) -> None:
        try:
            while True:
                tell(0)
                time.sleep(0.001)
        except BaseException as error:
            ended.append(type(error))
            raise

    found = followed(work, stop)
    next(found)
    if how == "event":
        stop.set()
        with pytest.raises(CalledOff):
            list(found)
    else:
        found.close()  # type: ignore[attr-defined]
    assert ended == [CalledOff]


def test_visitors_call_off_their_own_alone() -> None:
    sessions = Sessions()
    with (
        sessions.running("a") as first,
        sessions.running("a") as second,
        sessions.running("b") as b,
    ):
        sessions.call_off("a")
        assert [first.is_set(), second.is_set(), b.is_set()] == [True, True, False]
    sessions.call_off("a")
    with sessions.running("a") as later:
        assert not later.is_set()
