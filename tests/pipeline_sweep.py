"""guide and search over pipeline classes of diffusers, with tiny random components.

    python tests/pipeline_sweep.py [PART OF A NAME ...]

Runs every class, or those named, each in a process with a time limit of its own, keeps the rows in
docs/pipelines.json and writes docs/pipelines.md from them. Columns:

- strength 0: inside `guide(strength=0)` the picture is the plain one, to the bit;
- x0 seen, xt seen: the largest difference between the last x0 preview of a guided call and the
  picture that the call returned (1: black and white), in mode "x0" and "xt";
- best_of 1, best_of 4: the candidates of `search` with a batch size of 1 and 4 are `pipe(seed)`, up
  to as many of 255 levels; prune: so are those that were stopped and continued;
- left: after all of these the picture is the plain one again, to the bit.

A number in brackets is a refusal, listed below the table; bold is a fault. The schedulers are those
of the class, or one whose last step returns x0 in the place of one that does not.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
import warnings
from collections import Counter
from pathlib import Path

import conftest  # noqa: F401  one thread, offline
import diffusers
from sweep.case import Case
from sweep.registry import CASES
from sweep.run import COLUMNS, Sweep, one_line, refused

DOCS = Path(__file__).parent.parent / "docs"
LIMIT = 300.0
"""Seconds for one class."""


def swept(case: Case) -> list[str] | str:
    """A row, or why the plain pipeline does not run."""
    try:
        sweep = Sweep(case)
    except Exception as error:
        return f"{type(error).__name__}: {one_line(error)[:200]}"
    return sweep.row()


def isolated(case: Case) -> list[str] | str:
    """The same in a process of its own, which has a time limit."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(swept(case)))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(LIMIT) else f"**not done in {LIMIT:.0f} s**"
    except EOFError:
        return "**the process ended**"
    finally:
        process.kill()
        process.join()


class Notes:
    """Refusals, numbered, with the class names of one pipeline left out."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def row(self, case: Case, cells: list[str]) -> str:
        """A row of the table."""
        return f"| `{case}` | {' | '.join(self._cell(case, cell) for cell in cells)} |"

    def _cell(self, case: Case, text: str) -> str:
        if not refused(text):
            return text
        own = re.sub(rf"\b{case.pipeline}\b", "(pipeline)", text)
        if own not in self.texts:
            self.texts.append(own)
        return f"[{self.texts.index(own) + 1}]"


def kind(cells: list[str]) -> str:
    """What a row counts as."""
    if any(cell.startswith("**") for cell in cells):
        return "with a fault"
    if refused(cells[0]):
        return "refused by guide"
    if any(refused(cell) for cell in cells):
        return "guided, refused in some columns"
    if any(": " in cell for cell in cells):
        return "guided, with the reason why x0 seen is not quite the picture"
    return "guided, all columns good"


def table(rows: dict[str, list[str] | str]) -> str:
    """The page."""
    title, *parts = (__doc__ or "").strip().split("\n\n")
    lines = [
        f"# Pipelines of diffusers {diffusers.__version__}",
        f"\n{title[0].upper()}{title[1:]}\n",
        "\n\n".join(parts),
        f"\n| pipeline | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}",
    ]
    notes, counts, left = Notes(), Counter[str](), list[str]()
    for case in CASES:
        row = rows.get(case.pipeline)
        if isinstance(row, str):
            left.append(f"- `{case}`: {row}")
        elif row is not None:
            counts[kind(row)] += 1
            lines.append(notes.row(case, row))
    kinds = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    lines.append(f"\n{sum(counts.values())} classes: {kinds}.")
    if notes.texts:
        lines.append("\n## Refusals\n")
        lines += [f"{i}. {text}" for i, text in enumerate(notes.texts, 1)]
    missing = [f"`{case}`" for case in CASES if case.pipeline not in rows]
    if missing:
        lines.append(f"\n## Not swept yet\n\n{', '.join(missing)}")
    if left:
        lines.append("\n## Not run: the plain pipeline does not run on these components\n")
        lines += left
    return "\n".join(lines) + "\n"


def main(names: list[str]) -> None:
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    kept = DOCS / "pipelines.json"
    rows: dict[str, list[str] | str] = json.loads(kept.read_text()) if names else {}
    for case in CASES:
        if names and not any(part in case.pipeline for part in names):
            continue
        rows[case.pipeline] = isolated(case)
        print(case, rows[case.pipeline], flush=True)
        kept.write_text(json.dumps(rows, indent=0) + "\n")
        (DOCS / "pipelines.md").write_text(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
