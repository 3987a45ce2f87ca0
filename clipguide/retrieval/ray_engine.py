"""Embedding on Ray Data workers: `--engine ray`, for a machine of many cores or GPUs, or a cluster.

Needs the extra `scale`. The workers load the scorer by its name and read the files by their paths,
so both must be reachable from every machine. The catalogue is written by this process alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipguide.batching import batches
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import same_settings
from clipguide.extras import need
from clipguide.retrieval.engines import Done, Embedder, Known, embed_here
from clipguide.retrieval.records import Stamp
from clipguide.retrieval.sources import Read, Unreadable

_BATCHES = 4  # of images in a task: what a worker reads ahead and loses when it dies
Row = dict[str, Any]


def embed_on_ray(embedder: Embedder, paths: Sequence[str], known: Known) -> Iterator[list[Done]]:
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
        scorer, batch_size = embedder.scorer, embedder.batch_size
        kind = "GPU" if scorer.device.type == "cuda" else "CPU"
        named = [os.fsencode(path) for path in paths]
        tasks = [{"paths": some} for some in batches(named, _BATCHES * batch_size)]
        workers = max(1, min(len(tasks), int(ray.cluster_resources().get(kind, 1))))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        named_scorer = ScorerName(
            scorer.name, scorer.content_hash, str(scorer.device), scorer.settings_hash
        )
        embedder_of = partial(
            Embedder, embedder.source, batch_size=batch_size, readers=embedder.readers
        )
        rows = data.from_items(tasks, override_num_blocks=len(tasks)).flat_map(
            _Worker,
            fn_constructor_args=(str(Path.cwd()), named_scorer, embedder_of, known.snapshot()),
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


@dataclass(frozen=True)
class ScorerName:
    """What a worker loads.

    Attributes:
        name: of `load_scorer`.
        content_hash: of the caller's weights.
        device: the caller's; on one of CUDA a worker takes the GPU that Ray gave it.
        settings_hash: of the caller's configuration and tokenizer; empty where they are not known.
    """

    name: str
    content_hash: str
    device: str
    settings_hash: str = ""

    def load(self) -> Scorer:
        """The same scorer as the caller's.

        Raises:
            ValueError: it has other weights or settings.
        """
        device = "cuda" if self.device.startswith("cuda") else self.device
        scorer = load_scorer(self.name, device=device)
        if scorer.content_hash != self.content_hash:
            raise ValueError(f"the worker's {self.name} has other weights than the caller's")
        if not same_settings(scorer.settings_hash, self.settings_hash):
            raise ValueError(f"the worker's {self.name} has other settings than the caller's")
        return scorer


class _Worker:
    """A process that holds the scorer and does tasks: rows {"paths": [...]} -> rows of results."""

    def __init__(
        self,
        folder: str,
        scorer: ScorerName,
        embedder_of: Callable[[Scorer], Embedder],
        known: frozenset[str],
    ) -> None:
        os.chdir(folder)  # relative names mean what they mean to the process that started us
        self._embedder, self._known = embedder_of(scorer.load()), _Snapshot(known)

    def __call__(self, task: Row) -> list[Row]:
        paths = [os.fsdecode(path) for path in task["paths"]]
        groups = embed_here(self._embedder, paths, self._known)
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
