"""One process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clipguide.workers.base import I_, R_, Job


class Here:
    """This process does every item, one after the other."""

    main = True
    repeats = False

    def do(self, job: Job[I_, R_], items: Sequence[I_]) -> Iterator[R_]:
        """Each result as soon as it is there."""
        if items:
            work = job.open()
            yield from map(work, items)

    def agreed(self, value: Callable[[], Any]) -> Any:
        """It is asked for nobody else."""
        return value()
