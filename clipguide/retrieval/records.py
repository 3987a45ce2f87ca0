"""What the catalogue keeps: its tables, and their rows as values."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Stamp:
    """A file's size and times; while they stay the same its content is taken as the same."""

    bytes: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Location:
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
