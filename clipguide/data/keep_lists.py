"""What a filter keeps, written: a list of names, a table of all images, copies; and examples read.

A table has the columns `image`, `caption` (where there are captions), `keep`, `dropped_by` and one
for each rule's number. Where every image has a caption a CSV or JSONL can be read as captions; a
CSV can be read as examples.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipguide.data.captions import CaptionError, read_captions
from clipguide.data.matching import match_captions
from clipguide.data.pairs import TEXT_SUFFIXES
from clipguide.data.tables import DELIMITERS
from clipguide.extras import need
from clipguide.files import atomic_path, sha256_file, write_bytes, write_text
from clipguide.texts import check_text, listed

Row = Mapping[str, Any]
ANSWERS = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False,
           "keep": True, "drop": False}  # fmt: skip
"""What may stand in the column `keep` of examples, in letters of any case."""


def read_examples(
    file: Path, files: Sequence[Path], roots: Sequence[Path]
) -> tuple[dict[Path, bool], list[str]]:
    """Whether each of some images is to be kept, by the columns `image` and `keep` of a CSV or TSV;
    and a line for each thing that was left out.

    Args:
        file: the table; names are found as those of captions are.
        files: the images there are.
        roots: the folders that names may be relative to.

    Raises:
        CaptionError: another suffix or no such columns; an answer that is none of `ANSWERS`; two
            answers for one image; no image that is there.
    """
    if file.suffix.lower() not in DELIMITERS:
        got = f"got suffix {file.suffix!r}"
        raise CaptionError(f"{file}: {got}, expected .csv or .tsv with columns image and keep")
    rows = read_captions(file, image_column="image", caption_column="keep")
    for row in rows:
        if row.text.lower() not in ANSWERS:
            raise CaptionError(f"{file}: got keep {row.text!r} of {row.image}, expected yes or no")
    found = match_captions(rows, files, roots, file.parent)
    if not found.texts:
        raise CaptionError(f"{file}: none of its images is there, e.g. {rows[0].image}")
    answers: dict[Path, bool] = {}
    for image, texts in found.texts.items():
        said = {ANSWERS[text.lower()] for text in texts}
        if len(said) > 1:
            raise CaptionError(f"{file}: got yes and no for {image}, expected one answer")
        answers[image] = said.pop()
    return answers, found.notes(file)


def _names(file: Path, rows: Sequence[Row]) -> None:
    kept = [*dict.fromkeys(str(row["image"]) for row in rows if row["keep"])]
    for name in kept:
        if "\n" in name or "\r" in name:
            raise ValueError(
                f"{file}: got the name {name!r}, which no list of a name a line can hold: choose "
                f"one of {', '.join(TABLES)}"
            )
    write_bytes(file, b"".join(os.fsencode(name) + b"\n" for name in kept))


def _check_names(file: Path, rows: Sequence[Row]) -> None:
    """ValueError for a file name that is not UTF-8, which no table holds."""
    for row in rows:
        check_text(str(row["image"]), str(file))


def _csv(file: Path, rows: Sequence[Row]) -> None:
    _check_names(file, rows)
    text = io.StringIO()
    columns = [*dict.fromkeys(column for row in rows for column in row)]
    written = csv.DictWriter(text, columns, lineterminator="\n")
    written.writeheader()
    for row in rows:
        written.writerow({**row, "keep": "yes" if row["keep"] else "no"})
    write_text(file, text.getvalue())


def _jsonl(file: Path, rows: Sequence[Row]) -> None:
    _check_names(file, rows)
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_text(file, "".join(f"{line}\n" for line in lines))


def _parquet(file: Path, rows: Sequence[Row]) -> None:
    arrow, parquet = need("pyarrow", "scale"), need("pyarrow.parquet", "scale")
    _check_names(file, rows)
    with atomic_path(file) as temporary:
        parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows]), temporary)


TABLES: dict[str, Callable[[Path, Sequence[Row]], None]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
"""Suffix of a table of all images -> what writes it."""
WRITERS = {".txt": _names} | TABLES
"""Suffix -> what writes it; .txt are the names of what is kept, one a line."""


def copies_of(pictures: Sequence[Path], root: Path, to: Path) -> dict[Path, Path]:
    """Where each picture, and the text beside it, would be copied to: its place below `root`, below
    `to`.

    Raises:
        ValueError: `to` is `root` or inside it; something else is at one of the places.
    """
    if to.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"got {to} inside {root}, expected a folder elsewhere for copies")
    sources = [
        one for picture in pictures
        for one in (picture, *(picture.with_suffix(suffix) for suffix in TEXT_SUFFIXES))
        if one == picture or one.is_file()
    ]  # fmt: skip
    targets = {source: to / source.relative_to(root) for source in sources}
    others = [
        target for source, target in targets.items()
        if target.exists() and not _same(source, target)
    ]  # fmt: skip
    if others:
        raise ValueError(f"{to}: got other files there, which are kept: {listed(others)}")
    return targets


def copy_all(copies: Mapping[Path, Path]) -> int:
    """Copy what is not there yet; returns how many files were. A killed run goes on the next time.

    Raises:
        OSError: the disk is full. What was copied is whole.
    """
    todo = [(source, target) for source, target in copies.items() if not target.exists()]
    for source, target in todo:
        with atomic_path(target, replace=False) as temporary:
            shutil.copyfile(source, temporary)
    return len(todo)


def _same(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    return sha256_file(one) == sha256_file(other)
