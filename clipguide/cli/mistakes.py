"""What went wrong, in one line that says how to mend it."""

from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

from clipguide.texts import printable

PACKAGE = Path(__file__).parent.parent
USER = 2  # exit code of a mistake that the user can mend
OURS = 1  # exit code of everything else

OUT_OF_MEMORY = (
    "out of memory: lower --width and --height, --batch-size, --views or --budget, "
    "or use --dtype float16 (on a GPU)"
)


class Mistake(Exception):
    """A mistake of the user's that the command line itself found; the message is the line."""


def need_png(option: str, file: Path) -> None:
    """Mistake where a picture is to be written under another name than .png, or over a file."""
    if file.suffix.lower() != ".png":
        raise Mistake(f"got {option} {file}, expected a .png")
    need_free(option, file)


def need_free(option: str, file: Path) -> None:
    """Mistake where a drawing is to be written over anything but an earlier drawing."""
    from clipguide.report.metadata import is_composite

    if file.exists() and not is_composite(file):
        raise Mistake(f"got {option} {file}, which is there and is kept: choose another name")


def explain(error: BaseException) -> tuple[str, int]:
    """The line for `error`, and the exit code."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY, USER
    if hasattr(error, "format_message"):  # a bad flag, found by the option parser
        return f"{_one_line(_usage(error))} (`clipguide COMMAND --help` lists the options)", USER
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed: pip install {error.name.split('.')[0]}", USER
    if isinstance(error, OSError) and error.errno is not None:
        return _os_error(error), USER
    ours = isinstance(error, RuntimeError) and _raised_here(error)
    if ours or isinstance(error, (Mistake, ValueError, OSError, NotImplementedError)):
        return _one_line(str(error)), USER
    name = type(error).__name__
    return f"unexpected {name}: {_one_line(str(error))} (--debug shows where)", OURS


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine ran out of memory, in Python, in torch on the CPU, or on a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "allocate" in text)


def _raised_here(error: BaseException) -> bool:
    """Whether this package raised the error itself, with a message meant to be read."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(frames[-1].filename).is_relative_to(PACKAGE)


def _usage(error: BaseException) -> str:
    format_message: object = getattr(error, "format_message", None)
    text: object = format_message() if callable(format_message) else error
    return str(text)


def _os_error(error: OSError) -> str:
    place = f"{_shown(error.filename)}: " if error.filename is not None else ""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{place}not writable or not readable by you: choose another folder with --out"
    if error.errno == errno.EEXIST:
        return f"{place}there is something of that name, which is kept: choose another name"
    if error.errno == errno.ENOSPC:
        return f"{place}the disk is full: free some space or choose another folder with --out"
    return f"{place}{error.strerror}"


def _shown(name: object) -> str:
    return printable(os.fsdecode(name) if isinstance(name, bytes) else str(name))


def _one_line(text: str, most: int = 500) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 3] + "..."
