"""Embedding on Ray Data workers: `--engine ray`, for a machine of many cores or GPUs, or a cluster.

Needs the extra `scale`. The workers load the scorer by its name and read the files by their paths,
so both must be reachable from every machine. The catalogue is written by this process alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from clipguide.batching import batches
from clipguide.clip.named_scorer import ScorerName
from clipguide.clip.scorer import Scorer
from clipguide.retrieval.engines import Done, Embedder, Known, embed_here
from clipguide.retrieval.records import Stamp
from clipguide.retrieval.sources import Read, Unreadable
from clipguide.workers.ray_rows import RayWork, Row, ray_rows

_BATCHES = 4  # of images in a task: what a worker reads ahead and loses when it dies


def embed_on_ray(embedder: Embedder, paths: Sequence[str], known: Known) -> Iterator[list[Done]]:
    """The engine of `--engine ray`: a worker per core, or per GPU when the scorer is on one.

    Results come in the order of `paths`, so the index is that of `embed_here`; a content that
    occurs twice in one update may be embedded twice and is kept once.

    Raises:
        ValueError: ray is not installed, or a worker failed (the reason is given).
    """
    scorer, batch_size = embedder.scorer, embedder.batch_size
    named_scorer = ScorerName.of(scorer)
    embedder_of = partial(
        Embedder, embedder.source, batch_size=batch_size, readers=embedder.readers
    )
    arguments = (str(Path.cwd()), named_scorer, embedder_of, known.snapshot())
    work = RayWork(_Worker, arguments, gpu=scorer.device.type == "cuda", batch=batch_size)
    named = [os.fsencode(path) for path in paths]
    tasks = [{"paths": some} for some in batches(named, _BATCHES * batch_size)]
    for rows in ray_rows(work, tasks):
        yield [_done(row) for row in rows]


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
