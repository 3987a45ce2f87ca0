"""Tasks done by Ray Data, on a machine of many cores or GPUs or a cluster: the extra `scale`.

Workers read and write files by their paths, so those must be reachable from every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from clipguide.extras import need

Row = dict[str, Any]


@dataclass(frozen=True)
class RayWork:
    """What Ray's workers do.

    Attributes:
        worker: a class, whose objects do a task each time they are called: row -> rows.
        arguments: of its constructor, which each worker calls once.
        gpu: whether each worker has a GPU to itself, or a core.
        batch: rows that are handed over at a time.
    """

    worker: Any
    arguments: tuple[Any, ...]
    gpu: bool = False
    batch: int = 1


def ray_rows(work: RayWork, tasks: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows of every task, in the order of the tasks, some at a time.

    Joins the cluster that runs or that RAY_ADDRESS names, or starts one on this machine for as long
    as it takes. A worker that dies is started anew, and what it had in hand is done again.

    Raises:
        ValueError: ray is not installed, or a worker failed (the reason is given).
    """
    ray, data = need("ray", "scale"), need("ray.data", "scale")
    if not tasks:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        kind = "GPU" if work.gpu else "CPU"
        workers = max(1, min(len(tasks), int(ray.cluster_resources().get(kind, 1))))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = data.from_items([*tasks], override_num_blocks=len(tasks)).flat_map(
            work.worker,
            fn_constructor_args=work.arguments,
            concurrency=workers,
            num_cpus=1,
            num_gpus=1 if work.gpu else 0,
        )
        try:
            for block in rows.iter_batches(batch_size=work.batch, batch_format="pyarrow"):
                yield block.to_pylist()
        except ray.exceptions.RayError as error:
            raise ValueError(f"a Ray worker failed: {_cause(error)}") from error
    finally:
        if started:
            ray.shutdown()


def _cause(error: BaseException) -> str:
    """The worker's own last line: Ray's message is its whole traceback."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
