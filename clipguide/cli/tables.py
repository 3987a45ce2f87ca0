"""The tables of `generate` and `demo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipguide.report.table import Cell, format_table

Row = Mapping[str, Any]  # a record as in results.jsonl
SCORES = ("guiding CLIP", "held-out CLIP")


def how_made(row: Row) -> str:
    """unguided, guided, the search that chose a picture, or both: a role in a pair, as shown."""
    settings = row["settings"]
    if row["role"] == "unguided" or not settings["search"]:
        return row["role"]
    climbed = "guided, " if settings["guidance"]["strength"] > 0 else ""
    return f"{climbed}search {settings['search']}"


def single_table(rows: Sequence[Row]) -> str:
    """One line per picture."""
    columns = [_column(rows, kind) for kind in _kinds(rows)]
    cells: list[list[Cell]] = [
        [row["file"], row["seed"], *(column[i] for column in columns)] for i, row in enumerate(rows)
    ]
    return format_table(["picture", "seed", *_kinds(rows)], cells)


def pair_table(rows: Sequence[Row]) -> str:
    """One line per prompt, unguided -> guided or searched, and a last line of means."""
    guided, unguided = rows[0::2], rows[1::2]
    cells: list[list[Cell]] = [[row["prompt"]] for row in guided]
    means: list[Cell] = ["mean"]
    for kind in _kinds(rows):
        before, after = _column(unguided, kind), _column(guided, kind)
        for line, a, b in zip(cells, before, after, strict=True):
            line.append(f"{_text(a)} -> {_text(b)}")
        means.append(f"{_mean(before)} -> {_mean(after)}")
    return format_table([f"unguided -> {how_made(guided[0])}", *_kinds(rows)], [*cells, means])


def _kinds(rows: Sequence[Row]) -> list[str]:
    """The columns that have a value in some row."""
    oracle = ["oracle"] if any(row["oracle"] is not None for row in rows) else []
    return [*oracle, *SCORES[: len(rows[0]["scores"])], "seconds"]


def _column(rows: Sequence[Row], kind: str) -> list[Cell]:
    if kind in SCORES:
        return [row["scores"][SCORES.index(kind)]["value"] for row in rows]
    return [row[kind] for row in rows]


def _mean(cells: Sequence[Cell]) -> str:
    """Of numbers their mean; of the oracle's answers how many are right."""
    if all(isinstance(cell, bool) or cell is None for cell in cells):
        answers = [cell for cell in cells if cell is not None]
        return f"{sum(map(bool, answers))}/{len(answers)}"
    numbers = [float(cell) for cell in cells if isinstance(cell, (int, float))]
    return _text(sum(numbers) / len(numbers))


def _text(cell: Cell) -> str:
    if cell is None or isinstance(cell, bool):
        return "-" if cell is None else "right" if cell else "wrong"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
