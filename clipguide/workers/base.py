"""A job, and who does its items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)
I_ = TypeVar("I_")
R_ = TypeVar("R_")


class Job(Protocol[Item, Result]):
    """What is to be done with each item; items and results are plain JSON values.

    A job can be pickled: what it needs is loaded when it is opened, by each worker.
    """

    def open(self) -> Callable[[Item], Result]:
        """What does one item."""
        ...


class Workers(Protocol):
    """Who does the items of jobs.

    Attributes:
        main: whether this process reports, and writes what there is one of.
        repeats: whether an item may be begun again, after the death of the worker that had it.
    """

    @property
    def main(self) -> bool: ...

    @property
    def repeats(self) -> bool: ...

    def do(self, job: Job[I_, R_], items: Sequence[I_]) -> Iterator[R_]:
        """The results in the items' order; an item is done by one worker.

        Raises:
            ValueError: an item failed in another process; the first of them is named.
        """
        ...

    def agreed(self, value: Callable[[], Any]) -> Any:
        """What the main process finds `value` to be, in every process; a plain JSON value."""
        ...
