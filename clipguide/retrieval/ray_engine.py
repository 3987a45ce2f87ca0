"""Embedding on Ray Data workers: `--engine ray`, for a machine of many cores or GPUs, or a cluster.

Needs the extra `scale`. The workers load the scorer by its name and read the files by their paths,
so both must be reachable from every machine. The catalogue is written by this process alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipguide.batching import batches
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.extras import need
from clipguide.retrieval.engines import Done, Known, embed_here
from clipguide.retrieval.records import Stamp
from clipguide.retrieval.sources import Read, Source, Unreadable

_BATCHES = 4  # of images in a task: what a worker reads ahead and loses when it dies
Row = dict[str, Any]


def embed_on_ray(
    source: Source,
    paths: Sequence[str],
    known: Known,
    scorer: Scorer,
    batch_size: int,
    readers: int,
) -> Iterator[list[Done]]:
    """The engine of `--engine ray`: a worker per core, or per GPU when the scorer is on one.

    Joins the cluster that runs or that RAY_ADDRESS names, or starts one on this machine for as long
    as it takes. Results come in the order of `paths`, so the index is that of `embed_here`; a
    content that occurs twice in one update may be embedded twice and is kept once.

    Raises:
        ValueError: ray is not installed, or a worker failed (the reason is given).
    """
    ray = need("ray", "scale")
    data = need("ray.data", "scale")
    if not paths:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        kind = "GPU" if scorer.device.type == "cuda" else "CPU"
        named = [os.fsencode(path) for path in paths]
        tasks = [{"paths": some} for some in batches(named, _BATCHES * batch_size)]
        workers = max(1, min(len(tasks), int(ray.cluster_resources().get(kind, 1))))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        settings = (str(Path.cwd()), source, known.snapshot(), scorer.name, scorer.content_hash)
        rows = data.from_items(tasks, override_num_blocks=len(tasks)).flat_map(
            _Worker,
            fn_constructor_args=(*settings, str(scorer.device), batch_size, readers),
            concurrency=workers,
            num_cpus=1,
            num_gpus=1 if kind == "GPU" else 0,
        )
        try:
            for block in rows.iter_batches(batch_size=batch_size, batch_format="pyarrow"):
                yield [_done(row) for row in block.to_pylist()]
        except ray.exceptions.RayError as error:
            raise ValueError(f"a Ray worker failed: {_cause(error)}") from error
    finally:
        if started:
            ray.shutdown()


class _Worker:
    """A process that holds the scorer and does tasks: rows {"paths": [...]} -> rows of results."""

    def __init__(
        self,
        folder: str,
        source: Source,
        known: frozenset[str],
        name: str,
        content_hash: str,
        device: str,
        batch_size: int,
        readers: int,
    ) -> None:
        os.chdir(folder)  # relative names mean what they mean to the process that started us
        self._source, self._known = source, _Snapshot(known)
        self._scorer = load_scorer(name, device="cuda" if device.startswith("cuda") else device)
        self._batch_size, self._readers = batch_size, readers
        if self._scorer.content_hash != content_hash:
            raise ValueError(f"the worker's {name} has other weights than the caller's")

    def __call__(self, task: Row) -> list[Row]:
        groups = embed_here(
            self._source,
            [os.fsdecode(path) for path in task["paths"]],
            self._known,
            self._scorer,
            self._batch_size,
            self._readers,
        )
        return [_row(done) for group in groups for done in group]


class _Snapshot:
    """`Known`, as it was when the work began."""

    def __init__(self, hashes: frozenset[str]) -> None:
        self._hashes = hashes

    def __contains__(self, hash_: str) -> bool:
        return hash_ in self._hashes

    def snapshot(self) -> frozenset[str]:
        return self._hashes


def _row(done: Done) -> Row:
    """A result as Arrow takes it: every field there, of one type."""
    read = done.read
    bad = isinstance(read, Unreadable)
    stamp = Stamp(0, 0, 0) if bad else read.stamp
    return {
        "path": os.fsencode(done.path),
        "lasting": bad and read.lasting,
        "reason": str(read) if bad else "",
        "bad": bad,
        "stamp": [stamp.bytes, stamp.mtime_ns, stamp.ctime_ns],
        "hash": "" if bad else read.hash,
        "details": "{}" if bad else json.dumps(dict(read.details)),
        "vector": b"" if done.vector is None else done.vector.float().numpy().tobytes(),
    }


def _done(row: Row) -> Done:
    """The inverse of `_row`."""
    path = os.fsdecode(row["path"])
    if row["bad"]:
        return Done(path, Unreadable(row["reason"], row["lasting"]))
    read = Read(Stamp(*row["stamp"]), row["hash"], None, json.loads(row["details"]))
    if not row["vector"]:
        return Done(path, read)
    vector = torch.from_numpy(np.frombuffer(row["vector"], dtype=np.float32).copy())
    return Done(path, read, vector)


def _cause(error: BaseException) -> str:
    """The worker's own last line: Ray's message is its whole traceback."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
