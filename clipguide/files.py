"""Files that are either whole or not there, and hashes of what is in them.

A process killed while it writes leaves a half-written file under the final name; here every file
is written under a temporary name beside it, synced, and renamed (one atomic step on POSIX).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".partial-"
"""Names of unfinished files begin so; one left behind by a killed process may be deleted."""
_CHUNK = 2**20  # bytes read at a time


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and becomes `path`.

    The temporary name keeps the suffix, so libraries that choose a format by it work. When the
    block raises, the temporary file is removed and whatever was at `path` stays untouched. A
    symbolic link is followed: the file it names is replaced, not the link. Missing parent folders
    are made.

    Raises:
        FileNotFoundError: the block ended without writing the temporary file.

    Example:
        >>> with atomic_path("out/image.png") as temporary:
        ...     image.save(temporary)
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{target.suffix}"
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.replace(target)
        if os.name == "posix":
            _sync(target.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` atomically: UTF-8, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON, atomically, keys in their own order.

    Raises:
        ValueError: a number is NaN or infinite (not JSON).
        TypeError: a value has no JSON form.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_tree(folder: str | os.PathLike[str]) -> str:
    """SHA-256 over the names and contents of every regular file below `folder`.

    Independent of the folder's own name, of the file system's order and of file times; unfinished
    files (`TEMPORARY_PREFIX`) are left out.

    Raises:
        ValueError: `folder` is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"got {root}, expected a folder")
    files = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    digest = hashlib.sha256()
    for name in sorted(files):
        if not files[name].name.startswith(TEMPORARY_PREFIX):
            digest.update(f"{sha256_file(files[name])}  {name}\0".encode())
    return digest.hexdigest()
