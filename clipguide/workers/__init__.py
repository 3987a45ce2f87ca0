"""Who does the items of a job: this process, those of `accelerate launch`, or Ray's workers.

A job is opened once by each worker and then called with one item after the other. Whoever does an
item, it is the same call, so results and files are those of one process: to the bit where torch
computes with as many threads (`OMP_NUM_THREADS`; accelerate's processes have one).
"""

from __future__ import annotations

import os

from clipguide.workers.base import Job, Workers
from clipguide.workers.here import Here

__all__ = ["ENGINES", "Here", "Job", "Workers", "find_workers", "launched"]

ENGINES = ("here", "ray")
"""What `--engine` may be; `accelerate launch` is found by itself."""


def launched() -> bool:
    """Whether `accelerate launch` (or torchrun) started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def find_workers(engine: str = "here") -> Workers:
    """The workers of an engine by name.

    Raises:
        ValueError: an unknown name; Ray inside `accelerate launch`; ray is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"got engine {engine!r}, expected one of {', '.join(ENGINES)}")
    if engine == "here" and not launched():
        return Here()
    if engine == "here":
        from clipguide.workers.launched import Launched

        return Launched()
    if launched():
        raise ValueError("got engine ray under accelerate launch, expected one of them")
    from clipguide.workers.on_ray import OnRay

    return OnRay()
