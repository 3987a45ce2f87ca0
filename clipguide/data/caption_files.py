"""Files that captions are written into: beside each picture, or all in one."""

from __future__ import annotations

import csv
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from clipguide.data.pairs import TEXT_SUFFIXES
from clipguide.files import append_lines, atomic_path, write_text
from clipguide.texts import check_text, encoding_of, read_text, split_lines

SIDECAR = TEXT_SUFFIXES[0]


class CaptionFile(ABC):
    """Where captions go; what is there already is not written again."""

    @abstractmethod
    def done(self, pictures: Sequence[Path]) -> set[Path]:
        """Those of the pictures that have a caption there."""

    @abstractmethod
    def add(self, captions: Mapping[Path, str]) -> None:
        """Write the captions of some pictures, wholly or not at all."""


class Sidecars(CaptionFile):
    """A `.txt` beside each picture, its name but for the suffix: what trainers of LoRA read.

    Args:
        overwrite: whether a text that is there is replaced.
    """

    def __init__(self, overwrite: bool = False) -> None:
        self._overwrite = overwrite

    def check(self, pictures: Sequence[Path]) -> None:
        """Refuse pictures that would share a sidecar.

        Raises:
            ValueError: names two of them.
        """
        seen: dict[Path, Path] = {}
        for picture in pictures:
            first = seen.setdefault(picture.with_suffix(SIDECAR), picture)
            if first != picture:
                told = f"{first.name} and {picture.name} of {picture.parent}"
                raise ValueError(f"got {told}, which have one {SIDECAR}: rename one of them")

    def done(self, pictures: Sequence[Path]) -> set[Path]:
        return set() if self._overwrite else {one for one in pictures if texts_beside(one)}

    def add(self, captions: Mapping[Path, str]) -> None:
        for picture, caption in captions.items():
            file = picture.with_suffix(SIDECAR)
            line = " ".join(caption.split()) + "\n"  # `filter` and trainers read a caption a line
            if self._overwrite:
                write_text(file, line)
                continue
            with atomic_path(file, replace=False) as temporary:
                temporary.write_bytes(line.encode())


def texts_beside(picture: Path) -> list[Path]:
    """The sidecar texts that a picture has, of whatever tool."""
    return [file for suffix in TEXT_SUFFIXES if (file := picture.with_suffix(suffix)).exists()]


class _Lines(CaptionFile):
    """One file of a line a picture, which is only added to.

    Args:
        path: the file. Pictures are named relative to its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[str] | None = None

    @abstractmethod
    def names(self, text: str) -> list[str]:
        """The pictures of the file's text. ValueError for a line that is none of these."""

    @abstractmethod
    def line(self, name: str, caption: str) -> str:
        """The line of a picture, without its end."""

    @abstractmethod
    def cut_off(self, line: str, *, first: bool) -> bool:
        """Whether a last line without its end is what a killed run left of one. ValueError where
        nobody can know."""

    def first(self) -> list[str]:
        """The lines before any picture's."""
        return []

    def done(self, pictures: Sequence[Path]) -> set[Path]:
        if self._known is None:
            self._known = self._read()
            for picture in pictures:
                check_text(self._name(picture), str(self._path))
        return {picture for picture in pictures if self._name(picture) in self._known}

    def _read(self) -> set[str]:
        if not self._path.exists():
            return set()
        text = read_text(self._path)
        with self._path.open("rb") as file:
            encoding = encoding_of(file.read(4))
        if encoding != "utf-8":  # what is added is, and one file has one encoding
            got = f"a file in {encoding.upper()}, expected UTF-8"
            raise ValueError(f"{self._path}: got {got}; choose another name")
        ended = text[: text.rfind("\n") + 1]
        last = text[len(ended) :]
        try:
            # a file of another tool may well end without a line's end: its last line stays
            half = bool(last) and self.cut_off(last, first=not ended)
            names = self.names(ended if half else text)
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}; choose another name") from error
        if half:
            write_text(self._path, ended)
        return set(names)

    def add(self, captions: Mapping[Path, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        begin = [] if self._path.exists() and self._path.stat().st_size else self.first()
        lines = [self.line(self._name(picture), text) for picture, text in captions.items()]
        append_lines(self._path, [*begin, *lines])
        self._known = {*(self._known or ()), *map(self._name, captions)}

    def _name(self, picture: Path) -> str:
        return Path(os.path.relpath(picture, self._path.parent)).as_posix()


class Metadata(_Lines):
    """`metadata.jsonl`: `{"file_name": ..., "text": ...}` a line, what Hugging Face's imagefolder
    reads."""

    def names(self, text: str) -> list[str]:
        found: list[str] = []
        for number, line in enumerate(split_lines(text), 1):
            try:
                row = json.loads(line)
                found.append(str(row["file_name"]))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"line {number} is no object with file_name") from error
        return found

    def line(self, name: str, caption: str) -> str:
        return json.dumps({"file_name": name, "text": caption}, ensure_ascii=False)

    def cut_off(self, line: str, *, first: bool) -> bool:
        begin = self.line("", "")[: len('{"file_name": "')]
        try:
            json.loads(line)
        except ValueError:
            return line.startswith(begin) or begin.startswith(line)
        return False


class CsvFile(_Lines):
    """`image,caption`, as `clipguide score --captions` reads it."""

    def first(self) -> list[str]:
        return ["image,caption"]

    def names(self, text: str) -> list[str]:
        rows = [*csv.reader(io.StringIO(text))]
        if rows and rows[0] != ["image", "caption"]:
            raise ValueError("its first line is not image,caption")
        return [row[0] for row in rows[1:] if row]

    def line(self, name: str, caption: str) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow([name, caption])
        return text.getvalue()

    def cut_off(self, line: str, *, first: bool) -> bool:
        (header,) = self.first()
        if first:
            return line != header and header.startswith(line)
        open_quote = line.count('"') % 2 == 1
        if open_quote or len(next(csv.reader([line]))) < 2:
            return True
        raise ValueError(f"its last line, {line!r}, has no end and may be half a row: end it by a "
                         "line break where it is whole, or take it out")  # fmt: skip


KINDS = {".jsonl": Metadata, ".csv": CsvFile}
"""Suffix of a file of captions -> its kind."""
