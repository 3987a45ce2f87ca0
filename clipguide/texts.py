"""Texts from anywhere: files in their encoding, lines, what a text may hold, how it is shown.

A line ends at a line feed, a carriage return, or both; the other characters that `str.splitlines`
ends one at (U+2028, U+0085, form feed ...) are letters of the text here.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

MAX_TEXT = 100_000
"""Characters of one text. A tokenizer asked for a hundred times as many aborts the process."""

# UTF-32 first: its little-endian mark begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BREAK = re.compile(r"\r\n|\n|\r")
_SHOWN = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_JOINERS = "\u200c\u200d"  # of letters in Persian and in emoji


def encoding_of(data: bytes) -> str:
    """What a byte-order mark at the start says, "utf-8" without one.

    Example:
        >>> encoding_of("a".encode("utf-16-le")), encoding_of(b"\\xff\\xfea\\x00")
        ('utf-8', 'utf-16-le')
    """
    return _mark(data)[1]


def _mark(data: bytes) -> tuple[bytes, str]:
    return next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))


def decode(data: bytes) -> str:
    """UTF-8, or what a byte-order mark at the start says: UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: bytes of another encoding, or NUL characters (UTF-16 without a mark has them).
    """
    mark, encoding = _mark(data)
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: len(mark) + error.start].count(b"\n") + 1
        found = f"byte {error.start} (line {line}) is not {encoding.upper()}"
        raise ValueError(f"{found}; save the file as UTF-8") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"line {line} has a NUL character, expected a text file in UTF-8")
    return text


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file, see `decode`.

    Raises:
        ValueError: it cannot be read or decoded; the message begins with the path.
    """
    try:
        return decode(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{os.fspath(path)}: {reason}") from error


def split_lines(text: str) -> list[str]:
    r"""The lines of `text` without their ends; only \n, \r\n and \r end a line.

    Example:
        >>> split_lines("a\u2028b\r\nc\n")
        ['a\u2028b', 'c']
    """
    lines = _BREAK.split(text)
    return lines if lines[-1] else lines[:-1]


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a file that are not blank, without spaces around them; see `read_text`."""
    return [line.strip() for line in split_lines(read_text(path)) if line.strip()]


def check_text(text: str, name: str = "text") -> None:
    """Refuse what no tokenizer takes.

    Raises:
        ValueError: more than MAX_TEXT characters, or a half character (a lone surrogate, what is
            left of a command line that is not UTF-8); the message begins with `name`.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"{name}: got {len(text)} characters, expected at most {MAX_TEXT}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"got {printable(text[: error.start + 1][-40:])}, which is not UTF-8"
        raise ValueError(f"{name}: {found}, expected whole characters") from None


def printable(text: str) -> str:
    r"""`text` on one line for a terminal: controls, breaks, bidirectional marks and bytes that are
    not UTF-8 as escapes.

    Example:
        >>> printable("a\nb\x1b[2J")
        'a\\nb\\x1b[2J'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if letter in _SHOWN:
        return _SHOWN[letter]
    if 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte of a file name, as Python keeps it
        return f"\\x{ord(letter) - 0xDC00:02x}"
    hidden = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return ascii(letter)[1:-1] if hidden and letter not in _JOINERS else letter


def listed(names: Sequence[object], most: int = 3) -> str:
    """The first names for a message: `a, b, c and 4 more`."""
    shown = ", ".join(printable(str(name)) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
