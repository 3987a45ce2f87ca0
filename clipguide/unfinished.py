"""Temporary names of files that are being written, and what killed processes left of them."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_PREFIX = ".partial-"
"""Names of unfinished files begin so: the machine, the process and a number follow."""
STALE_AFTER = 24 * 3600
"""Seconds after which an unfinished file of another machine, or of a process whose number another
one has by now, counts as left behind."""

_NAME = re.compile(re.escape(TEMPORARY_PREFIX) + r"(?:([0-9a-f]{8})-(\d+)-)?[0-9a-f]{12}(?:\..*)?")
_writing: set[str] = set()  # names that this process writes to now
_swept: set[tuple[int, Path]] = set()  # folders that this process has looked through


@contextmanager
def unfinished(target: Path) -> Generator[Path]:
    """A temporary path beside `target`, removed at the end if it is still there.

    The first time in a folder, what killed processes left there is removed.
    """
    if (os.getpid(), target.parent) not in _swept:
        _swept.add((os.getpid(), target.parent))
        remove_abandoned(target.parent)
    name = f"{TEMPORARY_PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(6)}{target.suffix}"
    temporary = target.parent / name
    _writing.add(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        _writing.discard(name)


def remove_abandoned(folder: Path) -> int:
    """Remove the unfinished files in `folder` that nobody writes any more; how many there were."""
    removed = 0
    for file in folder.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            if _abandoned(file):
                file.unlink()
                removed += 1
        except OSError:  # gone meanwhile, or of somebody else
            continue
    return removed


def _abandoned(file: Path) -> bool:
    match = _NAME.fullmatch(file.name)
    if match is None or not file.is_file():
        return False
    if match[1] == _machine():
        process = int(match[2])
        if process == os.getpid():
            return file.name not in _writing
        if not _alive(process):
            return True
    return time.time() - file.stat().st_mtime > STALE_AFTER


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _machine() -> str:
    """Where process numbers mean the same: this machine and, on Linux, this container."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]
