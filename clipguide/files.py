"""Files that are either whole or not there, and hashes of what is in them.

A process killed while it writes leaves a half-written file under the final name; here every file
is written under a temporary name beside it, synced, and renamed (one atomic step on POSIX).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from clipguide.unfinished import TEMPORARY_PREFIX, unfinished

_CHUNK = 2**20  # bytes read at a time
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, replace: bool = True) -> Generator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and becomes `path`.

    The temporary name keeps the suffix, so libraries that choose a format by it work. When the
    block raises, the temporary file is removed and whatever was at `path` stays untouched. A
    symbolic link is followed: the file it names is replaced, not the link. Missing parent folders
    are made. The file has the permissions of the one it replaces, or those that any new file gets
    (the umask), whatever the library that wrote it thinks. Temporary files that killed processes
    left in the folder are removed.

    Args:
        path: the file.
        replace: False: whatever is at `path`, even if it comes while the block runs, stays.

    Raises:
        FileNotFoundError: the block ended without writing the temporary file.
        FileExistsError: `replace` is False, and there is something at `path`.
        OSError: the disk is full, with `path` as its filename, whichever library found out.

    Example:
        >>> with atomic_path("out/image.png") as temporary:
        ...     image.save(temporary)
    """
    target = Path(os.path.realpath(path))
    if not replace and target.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
    with _full_disk_named(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(target) as temporary:
            mode = _mode(target, temporary)
            yield temporary
            temporary.chmod(mode)
            _sync(temporary, os.O_RDWR)
            if replace:
                temporary.replace(target)
            else:
                _move_to_free(temporary, target)
            if os.name == "posix":
                _sync(target.parent, os.O_RDONLY)


def _mode(target: Path, temporary: Path) -> int:
    """Permissions of the file that is there, or those that the system gives a new file here."""
    if target.is_file():
        return stat.S_IMODE(target.stat().st_mode)
    # the umask cannot be asked for without setting it for every thread, so a file is made
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(temporary.stat().st_mode)
    temporary.unlink()
    return mode


def _move_to_free(temporary: Path, target: Path) -> None:
    """Rename, unless there is something at `target`: FileExistsError, in one atomic step."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # a file system without hard links: an empty file of that name keeps others away
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        temporary.replace(target)


@contextmanager
def _full_disk_named(path: str | os.PathLike[str]) -> Generator[None]:
    """A full disk as one OSError that names `path`.

    safetensors and SQLite report it each in an exception of their own.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    text = str(error).lower()
    return any(
        word in text for word in ("no space left", "storagefull", "disk is full", "disk full")
    )


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: str | os.PathLike[str], lines: Sequence[str]) -> None:
    """Add whole lines to a file that other processes may add to at the same time.

    A last line that a killed process left without its end is ended first, so that it cannot run
    into the first of these. All lines are written and synced, or none.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    data = "".join(line + "\n" for line in lines).encode("utf-8")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    with _full_disk_named(path):
        descriptor = os.open(path, flags, 0o666)
        try:
            _lock(descriptor)
            _append(descriptor, data)
        finally:
            os.close(descriptor)  # which releases the lock too


def _append(descriptor: int, data: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        data = data if os.read(descriptor, 1) == b"\n" else b"\n" + data
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _lock(descriptor: int) -> None:
    """Wait for the others; where there is no `fcntl` a single append is still in one piece."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)


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
