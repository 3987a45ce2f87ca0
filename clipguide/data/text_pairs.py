"""Pairs of texts in two languages, from a TSV or CSV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipguide.data.tables import DELIMITERS, read_table
from clipguide.texts import check_text, read_text

COLUMNS = ("source", "translation")


@dataclass(frozen=True)
class TextPairs:
    """N texts, and what each is in the other language."""

    sources: tuple[str, ...]
    translations: tuple[str, ...]


def read_text_pairs(file: Path) -> TextPairs:
    """The pairs of a table with the columns `source` (what a teacher reads) and `translation`.

    A source may stand there several times, with several translations.

    Raises:
        ValueError: another suffix, a missing column, an empty cell, a text that is too long or not
            whole, no pair at all; the message begins with the file.
    """
    suffix = file.suffix.lower()
    if suffix not in DELIMITERS:
        raise ValueError(f"{file}: got suffix {suffix!r}, expected .tsv or .csv")
    text = read_text(file)
    try:
        names, rows = read_table(text, DELIMITERS[suffix])
        if not set(COLUMNS) <= set(names):
            got = ", ".join(names) or "none"
            raise ValueError(f"got columns {got}, expected {' and '.join(COLUMNS)}")
        found: list[list[str]] = [[], []]
        for place, cells in rows:
            row = dict(zip(names, cells, strict=True))
            for column, texts in zip(COLUMNS, found, strict=True):
                if not row[column].strip():
                    raise ValueError(f"{place}: got an empty {column}, expected a text")
                check_text(row[column], place)
                texts.append(row[column].strip())
        if not found[0]:
            raise ValueError("no pairs in it")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return TextPairs(tuple(found[0]), tuple(found[1]))
