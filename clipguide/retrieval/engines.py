"""Where items are read and embedded: here (threads read while the model embeds), or elsewhere.

An engine is what `update_index` takes its vectors from. Every engine gives the same items in the
same order; `clipguide.retrieval.ray_engine` has one for many machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.retrieval.sources import Read, Source, Unreadable

READERS = 2
"""Threads that read and decode while the model embeds."""
BATCH_SIZE = 32
_GROUP = 8  # items in a group for each image of a batch: known contents need no embedding


@dataclass(frozen=True)
class Done:
    """An item that was read, without its payload.

    `vector`, (D,) float32, is None when it is bad, or its content is known already or comes
    earlier.
    """

    path: str
    read: Read | Unreadable
    vector: Tensor | None = None


class Known(Protocol):
    """The hashes of contents that need no embedding any more; asked from several threads."""

    def __contains__(self, hash_: str, /) -> bool: ...

    def snapshot(self) -> frozenset[str]:
        """Those of now."""
        ...


class Engine(Protocol):
    """Reads and embeds `paths` of a source, in order, in groups of a bounded size."""

    def __call__(
        self,
        source: Source,
        paths: Sequence[str],
        known: Known,
        scorer: Scorer,
        batch_size: int,
        readers: int,
    ) -> Iterator[list[Done]]: ...


def embed_here(
    source: Source,
    paths: Sequence[str],
    known: Known,
    scorer: Scorer,
    batch_size: int = BATCH_SIZE,
    readers: int = READERS,
) -> Iterator[list[Done]]:
    """The engine of one process: `readers` threads read and decode while the scorer embeds."""
    group: list[tuple[str, Read | Unreadable]] = []
    new: set[str] = set()  # hashes in the group that are to be embedded
    for path, read in _read_all(source, paths, known, scorer, batch_size, readers):
        if isinstance(read, Read) and read.payload is not None:
            if read.hash in known or read.hash in new:
                read = replace(read, payload=None)
            else:
                new.add(read.hash)
        group.append((path, read))
        if len(new) == batch_size or len(group) >= _GROUP * batch_size:
            yield _embedded(source, group, scorer)
            group.clear()
            new.clear()
    if group:
        yield _embedded(source, group, scorer)


def _embedded(
    source: Source, group: Sequence[tuple[str, Read | Unreadable]], scorer: Scorer
) -> list[Done]:
    reads = [read for _, read in group if isinstance(read, Read)]
    payloads = [read.payload for read in reads if read.payload is not None]
    vectors = iter(source.embed(payloads, scorer).cpu() if payloads else ())  # (B,D)
    done: list[Done] = []
    for path, read in group:
        if isinstance(read, Unreadable) or read.payload is None:
            done.append(Done(path, read))
        else:
            done.append(Done(path, replace(read, payload=None), next(vectors)))
    return done


def _read_all(
    source: Source,
    paths: Sequence[str],
    known: Known,
    scorer: Scorer,
    batch_size: int,
    readers: int,
) -> Iterator[tuple[str, Read | Unreadable]]:
    """Every path and what was read, in order, a bounded number ahead of the consumer."""

    def read(path: str) -> Read | Unreadable:
        try:
            return source.read(path, known.__contains__, scorer.preprocess)
        except Unreadable as error:
            return error

    ahead: deque[tuple[str, Future[Read | Unreadable]]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        for path in paths:
            ahead.append((path, pool.submit(read, path)))
            if len(ahead) > 2 * batch_size:
                first, future = ahead.popleft()
                yield first, future.result()
        while ahead:
            first, future = ahead.popleft()
            yield first, future.result()
