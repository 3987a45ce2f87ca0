"""Plain text tables for terminals and logs."""

from __future__ import annotations

from collections.abc import Sequence

from clipguide.texts import printable

Cell = str | int | float | bool | None


def format_table(headers: Sequence[str], rows: Sequence[Sequence[Cell]], digits: int = 3) -> str:
    """Columns padded to their widest cell; numbers to the right, text to the left.

    Floats are printed with `digits` decimals, True and False as yes and no, None as a dash; line
    breaks and what else a terminal would act on as escapes.
    Every row must have one cell per header (ValueError otherwise).

    Example: `format_table(["prompt", "clip"], [["a cat", 0.31]])`.
    """
    for row in rows:
        if len(row) != len(headers):
            raise ValueError(f"got a row of {len(row)} cells, expected {len(headers)}")
    headers = [printable(header) for header in headers]
    texts = [[_text(cell, digits) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *texts]) for i in range(len(headers))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(headers))]
    lines = [list(headers), ["-" * width for width in widths], *texts]
    return "\n".join(_line(line, widths, right) for line in lines)


def _text(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else printable(str(cell))


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, (int, float)) and not isinstance(cell, bool))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(padded).rstrip()
