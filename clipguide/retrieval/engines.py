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


@dataclass(frozen=True)
class Embedder:
    """How the items of a source become vectors.

    Attributes:
        source: where the items are.
        scorer: the model.
        batch_size: items that go through the model at once.
        readers: threads that read and decode.
    """

    source: Source
    scorer: Scorer
    batch_size: int = BATCH_SIZE
    readers: int = READERS

    def read(self, paths: Sequence[str], known: Known) -> Iterator[tuple[str, Read | Unreadable]]:
        """Every path and what was read, in order, a bounded number ahead of the consumer."""

        def read(path: str) -> Read | Unreadable:
            try:
                return self.source.read(path, known.__contains__, self.scorer.preprocess)
            except Unreadable as error:
                return error

        ahead: deque[tuple[str, Future[Read | Unreadable]]] = deque()
        with ThreadPoolExecutor(self.readers) as pool:
            for path in paths:
                ahead.append((path, pool.submit(read, path)))
                if len(ahead) > 2 * self.batch_size:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                first, future = ahead.popleft()
                yield first, future.result()

    def embed(self, group: Sequence[tuple[str, Read | Unreadable]]) -> list[Done]:
        """A group of items that were read, those with a payload through the model."""
        reads = [read for _, read in group if isinstance(read, Read)]
        payloads = [read.payload for read in reads if read.payload is not None]
        vectors = iter(self.source.embed(payloads, self.scorer).cpu() if payloads else ())  # (B,D)
        done: list[Done] = []
        for path, read in group:
            if isinstance(read, Unreadable) or read.payload is None:
                done.append(Done(path, read))
            else:
                done.append(Done(path, replace(read, payload=None), next(vectors)))
        return done


class Engine(Protocol):
    """Reads and embeds `paths`, in order, in groups of a bounded size."""

    def __call__(
        self, embedder: Embedder, paths: Sequence[str], known: Known, /
    ) -> Iterator[list[Done]]: ...


def embed_here(embedder: Embedder, paths: Sequence[str], known: Known) -> Iterator[list[Done]]:
    """The engine of one process: threads read and decode while the scorer embeds."""
    group: list[tuple[str, Read | Unreadable]] = []
    new: set[str] = set()  # hashes in the group that are to be embedded
    for path, read in embedder.read(paths, known):
        if isinstance(read, Read) and read.payload is not None:
            if read.hash in known or read.hash in new:
                read = replace(read, payload=None)
            else:
                new.add(read.hash)
        group.append((path, read))
        if len(new) == embedder.batch_size or len(group) >= _GROUP * embedder.batch_size:
            yield embedder.embed(group)
            group.clear()
            new.clear()
    if group:
        yield embedder.embed(group)
