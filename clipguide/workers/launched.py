"""The processes of `accelerate launch`: each does every n-th item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, cast

import torch

from clipguide.workers.base import I_, R_, Job

_PATIENCE = timedelta(days=7)  # the first that is done waits for the others


class Launched:
    """Process r of n does the items r, r + n, r + 2n, ...; all know all results in the end.

    An item that fails ends its process's share. The others do theirs, then all of them fail. Of a
    process that dies accelerate ends the others; what was written is there.
    """

    repeats = False

    def __init__(self) -> None:
        from accelerate import PartialState

        cpu = not torch.accelerator.is_available()
        self._state: Any = PartialState(cpu=cpu, timeout=_PATIENCE)
        self.main = bool(self._state.is_main_process)
        if torch.cuda.is_available():
            torch.cuda.set_device(self._state.device)  # what "cuda" means in this process

    def do(self, job: Job[I_, R_], items: Sequence[I_]) -> Iterator[R_]:
        """All results, once every process is done."""
        count, rank = int(self._state.num_processes), int(self._state.process_index)
        own: dict[int, R_] = {}
        failure: tuple[int, Exception] | None = None
        mine = range(rank, len(items), count)
        place = rank
        try:
            work = job.open() if mine else None
            for place in mine:
                own[place] = cast("Callable[[I_], R_]", work)(items[place])
        except Exception as error:  # told to the others, which wait
            failure = (place, error)
        told = None if failure is None else (failure[0], _line(failure[1]))
        shares = self._gathered((own, told))
        failures = sorted(failed for _, failed in shares if failed is not None)
        if failure is not None and failures[0][0] == failure[0]:
            raise failure[1]
        if failures:
            raise ValueError(f"another process failed: {failures[0][1]}")
        found = {place: result for results, _ in shares for place, result in results.items()}
        yield from (found[place] for place in range(len(items)))

    def agreed(self, value: Callable[[], Any]) -> Any:
        """The main process is asked, and tells the others; an error is every process's."""
        told: list[Any] = [None, None]
        if self.main:
            try:
                told = [value(), None]
            except Exception as error:
                told = [None, _line(error)]
                self._broadcast(told)
                raise
        found, error = self._broadcast(told)
        if error is not None:
            raise ValueError(f"the main process failed: {error}")
        return found

    def _broadcast(self, told: list[Any]) -> list[Any]:
        from accelerate.utils import broadcast_object_list

        found: list[Any] = broadcast_object_list(told, from_process=0)
        return found

    def _gathered(self, own: Any) -> list[Any]:
        from accelerate.utils import gather_object

        return gather_object([own])


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
