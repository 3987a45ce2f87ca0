"""The index's SQLite file: which items there are, what is known of them, where their vectors lie.

A *content* is a sequence of bytes (or a caption) that was embedded once; an *item* is a path that
holds it. So a renamed file and a copy need no new vector. Every change is one transaction: a killed
process leaves the state before or after it, nothing between.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "catalog.sqlite"
LOCK = "writer.lock"

SCHEMA = """
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY, file TEXT NOT NULL, rows INTEGER NOT NULL, sha256 TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS contents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash TEXT NOT NULL UNIQUE,
    shard INTEGER NOT NULL, row INTEGER NOT NULL,
    width INTEGER, height INTEGER,
    prompt TEXT, negative TEXT, seed INTEGER, score REAL, text TEXT
);
CREATE TABLE IF NOT EXISTS items (
    path TEXT PRIMARY KEY, content INTEGER NOT NULL REFERENCES contents(id),
    bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_content ON items(content);
CREATE TABLE IF NOT EXISTS bad (
    path TEXT PRIMARY KEY, reason TEXT NOT NULL,
    bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, data BLOB NOT NULL
) WITHOUT ROWID;
"""
DETAILS = ("width", "height", "prompt", "negative", "seed", "score", "text")
"""What a content may say of itself."""


class IndexDamaged(ValueError):
    """A file of the index is missing or not as it was written: `str(error)` names it."""


@dataclass(frozen=True)
class Stamp:
    """A file's size and times; while they stay the same its content is taken as the same."""

    bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Place:
    """Where the vector of a content lies: a row of a shard."""

    content: int
    shard: int
    row: int


@dataclass(frozen=True)
class Shard:
    """A file of vectors as the catalogue knows it."""

    id: int
    file: str
    rows: int
    sha256: str


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
def open_catalog(folder: Path, *, write: bool = False) -> Generator[Catalog]:
    """The catalogue of an index, closed at the end.

    Raises:
        IndexDamaged: missing, or not a database.
    """
    file = folder / FILE
    if not write and not file.is_file():
        raise IndexDamaged(f"{file}: missing, the index is damaged; index anew")
    connection = sqlite3.connect(file, isolation_level=None, timeout=30)
    try:
        if write:
            connection.execute("PRAGMA synchronous=FULL")
            connection.executescript(SCHEMA)
        yield Catalog(connection)
    except sqlite3.OperationalError as error:  # locked, read-only, disk full, a table missing
        raise IndexDamaged(f"{file}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise IndexDamaged(f"{file}: {error}; index anew") from error
    finally:
        connection.close()


class Catalog:
    """Questions to, and changes of, the SQLite file. Make one with `open_catalog`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

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

    @contextmanager
    def snapshot(self) -> Generator[None]:
        """One state of the file for all of the block's questions."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

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

    def places(self) -> list[Place]:
        """Where every vector lies, by shard and row."""
        rows = self._rows("SELECT id, shard, row FROM contents ORDER BY shard, row")
        return [Place(*row) for row in rows]

    def count(self) -> int:
        """How many contents there are."""
        return int(self._rows("SELECT count(*) FROM contents")[0][0])

    def sample(self, count: int) -> list[Place]:
        """Where `count` vectors lie: those of the smallest hashes, as good as drawn at random."""
        rows = self._rows("SELECT id, shard, row FROM contents ORDER BY hash LIMIT ?", (count,))
        return [Place(*row) for row in rows]

    def move(self, places: Iterable[Place]) -> None:
        """Vectors lie elsewhere now."""
        values = [(place.shard, place.row, place.content) for place in places]
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
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT INTO contents ({', '.join(columns)}) VALUES ({marks})"
        values = (id_, hash_, shard, row, *details.values())
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
        statement = "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?)"
        values = (path, content, stamp.bytes, stamp.mtime_ns, stamp.ctime_ns)
        self._connection.execute(statement, values)
        self._connection.execute("DELETE FROM bad WHERE path = ?", (path,))

    def set_bad(self, path: str, reason: str, stamp: Stamp) -> None:
        """A file that cannot be read, and is not an item (any more)."""
        statement = "INSERT OR REPLACE INTO bad VALUES (?, ?, ?, ?, ?)"
        values = (path, reason, stamp.bytes, stamp.mtime_ns, stamp.ctime_ns)
        self._connection.execute(statement, values)
        self._connection.execute("DELETE FROM items WHERE path = ?", (path,))

    def bad(self) -> dict[str, tuple[str, Stamp]]:
        """Path -> (reason, stamp) of every bad file, by path."""
        rows = self._rows("SELECT path, reason, bytes, mtime_ns, ctime_ns FROM bad ORDER BY path")
        return {path: (reason, Stamp(*rest)) for path, reason, *rest in rows}

    def remove(self, paths: Iterable[str]) -> None:
        """Forget items and bad files."""
        values = [(path,) for path in paths]
        self._connection.executemany("DELETE FROM items WHERE path = ?", values)
        self._connection.executemany("DELETE FROM bad WHERE path = ?", values)

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
