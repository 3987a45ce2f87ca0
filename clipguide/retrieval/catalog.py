"""The index's SQLite file: which items there are, what is known of them, where their vectors lie.

A *content* is a sequence of bytes (or a caption) that was embedded once; an *item* is a path that
holds it. So a renamed file and a copy need no new vector. Every change is one transaction of a file
that no search reads (`clipguide.retrieval.published`): a killed process leaves the state before or
after it, nothing between.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipguide.retrieval.published import FILE, WORK, IndexDamaged, begin, connect, publish
from clipguide.retrieval.records import DETAILS, SCHEMA, Location, Shard, Stamp

LOCK = "writer.lock"


@contextmanager
def writer_lock(folder: Path) -> Generator[None]:
    """Hold the index for writing; the system releases it when the process ends, however it ends.

    Raises:
        ValueError: another process holds it.
    """
    lock = sqlite3.connect(folder / LOCK, isolation_level=None, timeout=0)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        raise ValueError(f"{folder}: another process is updating this index") from error
    try:
        yield
    finally:
        lock.close()


@contextmanager
def open_catalog(folder: Path) -> Generator[Catalog]:
    """The catalogue of an index as it was published, its checksum compared, closed at the end.

    Of an index whose first update did not finish, what there is of it.

    Raises:
        IndexDamaged: missing, or not as it was written.
    """
    file, work = folder / FILE, folder / WORK
    unfinished = work.is_file() and not file.is_file()
    connection = _connect_work(work) if unfinished else connect(file)
    try:
        with told_as_damage(file):
            yield Catalog(connection)
    finally:
        connection.close()


@contextmanager
def change_catalog(folder: Path) -> Generator[Catalog]:
    """The catalogue for writing; published at the end, when nothing was raised. Hold `writer_lock`.

    Raises:
        IndexDamaged: what is there is not as it was written.
    """
    work = begin(folder)
    connection = _connect_work(work)
    try:
        with told_as_damage(work):
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(SCHEMA)
            yield Catalog(connection)
    finally:
        connection.close()
    publish(folder)


def read_catalog(folder: Path) -> Catalog:
    """As `open_catalog`, to be closed by the caller; threads may share it."""
    with told_as_damage(folder / FILE):
        return Catalog(connect(folder / FILE))


def _connect_work(work: Path) -> sqlite3.Connection:
    return sqlite3.connect(work, isolation_level=None, timeout=30)


@contextmanager
def told_as_damage(file: Path) -> Generator[None]:
    """What SQLite raises in the block, as `IndexDamaged` of `file`; a full disk as it is."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if "disk is full" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        raise IndexDamaged(f"{file}: {error}") from error  # locked, read-only, a table missing
    except sqlite3.DatabaseError as error:
        raise IndexDamaged(f"{file}: {error}; index anew") from error


class Catalog:
    """Questions to, and changes of, the SQLite file.

    Names and texts are kept as UTF-8; the bytes of a file name that are not UTF-8 are kept as they
    are and come back as Python gives them (`os.fsdecode`).

    Args:
        connection: see `open_catalog` and `change_catalog`.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.text_factory = _decoded

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All of the block's changes, or none."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def shards(self) -> list[Shard]:
        """In order of their ids."""
        return [
            Shard(*row)
            for row in self._rows("SELECT id, file, rows, sha256 FROM shards ORDER BY 1")
        ]

    def add_shard(self, file: str, rows: int, sha256: str) -> int:
        """Enter a shard; returns its id."""
        statement = "INSERT INTO shards (file, rows, sha256) VALUES (?, ?, ?)"
        return int(self._connection.execute(statement, (file, rows, sha256)).lastrowid or 0)

    def remove_shards(self, ids: Iterable[int]) -> None:
        """Forget shards; their contents must have moved."""
        self._connection.executemany("DELETE FROM shards WHERE id = ?", [(id_,) for id_ in ids])

    def locations(self) -> list[Location]:
        """Where every vector lies, by shard and row."""
        rows = self._rows("SELECT id, shard, row FROM contents ORDER BY shard, row")
        return [Location(*row) for row in rows]

    def count(self) -> int:
        """How many contents there are."""
        return int(self._rows("SELECT count(*) FROM contents")[0][0])

    def sample(self, count: int) -> list[Location]:
        """Where `count` vectors lie: those of the smallest hashes, as good as drawn at random."""
        rows = self._rows("SELECT id, shard, row FROM contents ORDER BY hash LIMIT ?", (count,))
        return [Location(*row) for row in rows]

    def move(self, locations: Iterable[Location]) -> None:
        """Vectors lie elsewhere now."""
        values = [(location.shard, location.row, location.content) for location in locations]
        self._connection.executemany("UPDATE contents SET shard = ?, row = ? WHERE id = ?", values)

    def contents(self) -> dict[str, int]:
        """Hash -> id of every content."""
        return dict(self._rows("SELECT hash, id FROM contents"))

    def next_id(self) -> int:
        """What the next content is called; an id is never used again."""
        rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'contents'")
        return int(rows[0][0]) + 1 if rows else 1

    def add_content(
        self,
        hash_: str,
        shard: int,
        row: int,
        details: Mapping[str, object],
        id_: int | None = None,
    ) -> int:
        """Enter a content, of which `details` (some of `DETAILS`) are known; returns its id."""
        columns = ["id", "hash", "shard", "row", *details]
        values = (id_, hash_, shard, row, *map(_encoded, details.values()))
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(v, bytes) else "?" for v in values)
        statement = f"INSERT INTO contents ({', '.join(columns)}) VALUES ({marks})"
        return int(self._connection.execute(statement, values).lastrowid or 0)

    def known(self, ids: Iterable[int]) -> set[int]:
        """Those of `ids` that are contents."""
        statement = "SELECT id FROM contents WHERE id = ?"
        return {id_ for id_ in ids if self._rows(statement, (id_,))}

    def stamps(self) -> dict[str, Stamp]:
        """Path -> stamp of every item."""
        rows = self._rows("SELECT path, bytes, mtime_ns, ctime_ns FROM items")
        return {path: Stamp(*rest) for path, *rest in rows}

    def items(self) -> dict[str, int]:
        """Path -> content of every item."""
        return dict(self._rows("SELECT path, content FROM items"))

    def set_item(self, path: str, content: int, stamp: Stamp) -> None:
        """Enter or change an item; it is not bad (any more)."""
        statement = "INSERT OR REPLACE INTO items VALUES (CAST(? AS TEXT), ?, ?, ?, ?)"
        values = (_encoded(path), content, stamp.bytes, stamp.mtime_ns, stamp.ctime_ns)
        self._connection.execute(statement, values)
        self._forget("bad", [path])

    def set_bad(self, path: str, reason: str, stamp: Stamp) -> None:
        """A file that cannot be read, and is not an item (any more)."""
        statement = "INSERT OR REPLACE INTO bad VALUES (CAST(? AS TEXT), ?, ?, ?, ?)"
        values = (_encoded(path), reason, stamp.bytes, stamp.mtime_ns, stamp.ctime_ns)
        self._connection.execute(statement, values)
        self._forget("items", [path])

    def bad(self) -> dict[str, tuple[str, Stamp]]:
        """Path -> (reason, stamp) of every bad file, by path."""
        rows = self._rows("SELECT path, reason, bytes, mtime_ns, ctime_ns FROM bad ORDER BY path")
        return {path: (reason, Stamp(*rest)) for path, reason, *rest in rows}

    def remove(self, paths: Iterable[str]) -> None:
        """Forget items and bad files."""
        paths = list(paths)
        self._forget("items", paths)
        self._forget("bad", paths)

    def _forget(self, table: str, paths: Iterable[str]) -> None:
        statement = f"DELETE FROM {table} WHERE path = CAST(? AS TEXT)"
        self._connection.executemany(statement, [(_encoded(path),) for path in paths])

    def remove_orphans(self) -> int:
        """Forget contents that no item holds; returns how many."""
        statement = "DELETE FROM contents WHERE id NOT IN (SELECT content FROM items)"
        return self._connection.execute(statement).rowcount

    def matching(self, condition: str, values: Sequence[object]) -> set[int]:
        """Contents that have an item for which the SQL `condition` is true."""
        statement = "SELECT DISTINCT c.id FROM contents c JOIN items i ON i.content = c.id WHERE "
        return {row[0] for row in self._rows(statement + condition, values)}

    def holders(
        self, content: int, condition: str = "1", values: Sequence[object] = ()
    ) -> list[tuple[str, dict[str, Any]]]:
        """Path and details of each item of a content, by path; bytes and mtime_ns included."""
        columns = ("bytes", "mtime_ns", *DETAILS)
        statement = (
            f"SELECT i.path, {', '.join(columns)} FROM contents c JOIN items i ON i.content = c.id "
            f"WHERE c.id = ? AND ({condition}) ORDER BY i.path"
        )
        rows = self._rows(statement, (content, *values))
        return [(path, dict(zip(columns, rest, strict=True))) for path, *rest in rows]

    def set_note(self, name: str, data: bytes) -> None:
        """Keep bytes under a name."""
        digest = hashlib.sha256(data).hexdigest()
        self._connection.execute(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (name, digest, data)
        )

    def has_note(self, name: str) -> bool:
        """Whether something is kept under a name."""
        return bool(self._rows("SELECT 1 FROM notes WHERE name = ?", (name,)))

    def note(self, name: str) -> bytes:
        """What was kept under a name. IndexDamaged: nothing, or not what was kept."""
        rows = self._rows("SELECT sha256, data FROM notes WHERE name = ?", (name,))
        if not rows or hashlib.sha256(rows[0][1]).hexdigest() != rows[0][0]:
            raise IndexDamaged(f"{FILE}: its note {name!r} is missing or damaged; index again")
        return bytes(rows[0][1])

    def healthy(self) -> bool:
        """SQLite's own check of the whole file."""
        return self._rows("PRAGMA integrity_check") == [("ok",)]


def _encoded(value: object) -> object:
    """A text as UTF-8, bytes of file names that are not UTF-8 as they are; the rest unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return value.encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:  # half of a pair of UTF-16, which no bytes of a file name mean
        return value.encode("utf-8", errors="backslashreplace")


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="surrogateescape")
