"""The catalogue's file as readers see it: whole, unchanging, its SHA-256 at its end.

An update does not touch the file that searches read. It works on a copy in transactions
(`catalog.work`), so that a killed process loses little, and at the end gives the copy a seal and
renames it: a reader sees the index as it was before the update or as it is after it, and compares
every byte. Cost: one hash of the file when it is opened (0.05 s for 100,000 images) and a copy of
it for an update.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

from clipguide.files import write_bytes

FILE = "catalog.sqlite"
WORK = "catalog.work"
"""What an update changes; left behind by a killed one, and gone on with by the next."""
_MARK = b"clipguide sha256"
_SEAL = len(_MARK) + 64  # bytes after the database's last page, where SQLite does not look
_CHUNK = 2**20  # bytes hashed at a time


class IndexDamaged(ValueError):
    """A file of the index is missing or not as it was written: `str(error)` names it."""


def verify(file: Path) -> None:
    """Compare a published file with its seal.

    Raises:
        IndexDamaged: missing, or other bytes than were written; what is wrong is said.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            left = os.fstat(opened.fileno()).st_size - _SEAL
            while left > 0 and (chunk := opened.read(min(left, _CHUNK))):
                digest.update(chunk)
                left -= len(chunk)
            seal = opened.read()
    except OSError as error:
        raise IndexDamaged(f"{file}: {error.strerror}, the index is damaged; index anew") from error
    if seal != _MARK + digest.hexdigest().encode():
        raise IndexDamaged(f"{file}: the checksum is wrong ({_diagnosis(file)}); index anew")


def connect(file: Path) -> sqlite3.Connection:
    """Open a published file for reading, its seal compared. Threads may share the connection.

    Nothing is locked and no journal is looked for: the file never changes, a new one replaces it.
    """
    while True:
        verify(file)
        connection = sqlite3.connect(
            f"{file.resolve().as_uri()}?mode=ro&immutable=1",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        before = file.stat()
        connection.execute("PRAGMA schema_version")  # SQLite opens the file at the first question
        if file.stat().st_ino == before.st_ino:
            return connection
        connection.close()  # replaced since it was compared


def begin(folder: Path) -> Path:
    """The file that an update works on: what a killed one left, a copy of the published, or new.

    Raises:
        IndexDamaged: the published file, or what a killed update left, is damaged.
    """
    work, file = folder / WORK, folder / FILE
    if work.exists():
        _check_work(work)
    elif file.exists():
        verify(file)
        write_bytes(work, file.read_bytes()[:-_SEAL])
    return work


def _check_work(work: Path) -> None:
    connection = sqlite3.connect(work)
    try:
        whole = connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        reason = "corrupt"
    except sqlite3.DatabaseError as error:
        whole, reason = False, str(error)
    finally:
        connection.close()
    if not whole:
        text = "left by an update that was killed, and damaged"
        raise IndexDamaged(f"{work}: {text} ({reason}); delete it and index again")


def publish(folder: Path) -> None:
    """Seal what was worked on and put it in the place of what searches read; it must be closed."""
    work = folder / WORK
    connection = sqlite3.connect(work)
    try:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        size = pages * connection.execute("PRAGMA page_size").fetchone()[0]
    finally:
        connection.close()
    with work.open("r+b") as opened:
        opened.truncate(size)  # the seal of an attempt that was killed goes
        digest = hashlib.sha256()
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
        opened.write(_MARK + digest.hexdigest().encode())
        opened.flush()
        os.fsync(opened.fileno())
    work.replace(folder / FILE)
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _diagnosis(file: Path) -> str:
    """What SQLite says of a damaged file, or which of its notes are damaged."""
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        notes = connection.execute("SELECT name, sha256, data FROM notes").fetchall()
        bad = [name for name, kept, data in notes if hashlib.sha256(data).hexdigest() != kept]
        return f"its note {bad[0]!r} is damaged" if bad else "other bytes than were written"
    except (sqlite3.Error, TypeError, UnicodeError) as error:
        return str(error)
    finally:
        connection.close()
