"""The text chunks of a PNG file, read without decoding its pixels and safe on hostile files.

Reference: PNG specification (third edition), sections 5 (chunks) and 11.3.3 (tEXt, zTXt, iTXt).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_TEXT_BYTES = 4 * 1024 * 1024  # of one chunk, after decompression
MAX_TOTAL_BYTES = 4 * MAX_TEXT_BYTES  # of all chunks, as stored and after decompression
MAX_CHUNKS = 100_000


class MetadataError(ValueError):
    """A file whose metadata cannot be read: `str(error)` names the file and the reason."""


def read_png_text(
    path: str | os.PathLike[str], keywords: Collection[str] | None = None
) -> dict[str, str]:
    """Keyword -> text of every text chunk; the first of a repeated keyword counts.

    A chunk that claims more bytes than the file has, a text above MAX_TEXT_BYTES, texts above
    MAX_TOTAL_BYTES together, a wrong checksum and a file that is no PNG are MetadataError; nothing
    is allocated on a chunk's own word.

    Args:
        keywords: those that are wanted; the texts of others are not kept. None: all.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            return _read_chunks(stream, size, keywords)
    except (OSError, MetadataError) as error:
        raise MetadataError(f"{file}: {getattr(error, 'strerror', None) or error}") from error


def _read_chunks(
    stream: BinaryIO, size: int, keywords: Collection[str] | None = None
) -> dict[str, str]:
    if stream.read(8) != SIGNATURE:
        raise MetadataError("not a PNG file")
    texts: dict[str, str] = {}
    total = 0
    for _ in range(MAX_CHUNKS):
        header = stream.read(8)
        if len(header) < 8:
            raise MetadataError("the file ends before its last chunk")
        length, kind = int.from_bytes(header[:4], "big"), header[4:]
        if length + 4 > size - stream.tell():
            raise MetadataError(f"chunk {kind!r} claims {length} bytes, more than the file has")
        if kind == b"IEND":
            return texts
        if kind not in _DECODERS:
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        body = _checked_body(stream, kind, length)
        keyword, text = _decode_chunk(kind, body)
        total += length + len(text)
        if total > MAX_TOTAL_BYTES:
            raise MetadataError(f"texts of more than {MAX_TOTAL_BYTES} bytes together")
        if keywords is None or keyword in keywords:
            texts.setdefault(keyword, text)
    raise MetadataError(f"more than {MAX_CHUNKS} chunks")


def _checked_body(stream: BinaryIO, kind: bytes, length: int) -> bytes:
    if length > MAX_TEXT_BYTES:
        raise MetadataError(f"a text of {length} bytes, more than {MAX_TEXT_BYTES}")
    body, checksum = stream.read(length), int.from_bytes(stream.read(4), "big")
    if zlib.crc32(kind + body) != checksum:
        raise MetadataError(f"chunk {kind!r} has a wrong checksum")
    return body


def _decode_chunk(kind: bytes, body: bytes) -> tuple[str, str]:
    keyword, _, rest = body.partition(b"\0")
    return keyword.decode("latin-1"), _DECODERS[kind](rest)


def _decode_text(rest: bytes) -> str:
    return rest.decode("latin-1")


def _decode_ztxt(rest: bytes) -> str:
    return _inflate(rest[1:]).decode("latin-1")  # one byte: the compression method


def _decode_itxt(rest: bytes) -> str:
    compressed = rest[:1] == b"\1"
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, text = rest.partition(b"\0")
    return (_inflate(text) if compressed else text).decode("utf-8", errors="replace")


def _inflate(data: bytes) -> bytes:
    decoder = zlib.decompressobj()
    try:
        text = decoder.decompress(data, MAX_TEXT_BYTES)
    except zlib.error as error:
        raise MetadataError(f"a compressed text does not decompress ({error})") from error
    if decoder.unconsumed_tail:
        raise MetadataError(f"a compressed text of more than {MAX_TEXT_BYTES} bytes")
    return text


_DECODERS = {
    b"tEXt": _decode_text,
    b"zTXt": _decode_ztxt,
    b"iTXt": _decode_itxt,
}
