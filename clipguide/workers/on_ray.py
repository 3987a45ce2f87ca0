"""Ray's workers: `--engine ray`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from clipguide.workers.base import I_, R_, Job
from clipguide.workers.ray_rows import RayWork, Row, ray_rows


class OnRay:
    """A worker for each core or GPU of a Ray cluster does one item after the other.

    Workers compute with as many threads as this process, so that their bits are its own.
    """

    main = True
    repeats = True

    def do(self, job: Job[I_, R_], items: Sequence[I_]) -> Iterator[R_]:
        """Each result as soon as it and those before it are there."""
        arguments = (str(Path.cwd()), torch.get_num_threads(), job)
        work = RayWork(_Worker, arguments, gpu=torch.cuda.is_available())
        tasks = [{"item": json.dumps(item)} for item in items]
        for rows in ray_rows(work, tasks):
            yield from (json.loads(row["result"]) for row in rows)

    def agreed(self, value: Callable[[], Any]) -> Any:
        """This process alone decides."""
        return value()


class _Worker:
    """A process of Ray's that has opened the job."""

    def __init__(self, folder: str, threads: int, job: Job[Any, Any]) -> None:
        os.chdir(folder)  # relative names mean what they mean to the process that started us
        torch.set_num_threads(threads)
        self._work = job.open()

    def __call__(self, task: Row) -> list[Row]:
        return [{"result": json.dumps(self._work(json.loads(task["item"])), allow_nan=False)}]
