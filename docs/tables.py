"""The tables of results in README.md and in these pages, made from the files of docs/results.

Command: python docs/tables.py
Minutes: none. Each table stands between `<!-- table: NAME -->` and `<!-- end of table -->`; what is
there is replaced. tests/test_result_tables.py fails where a page and its file disagree.

The files of docs/results hold the numbers: what `clipguide bench --repeats 0 --json` printed
(step_costs.json), the summary.json of `clipguide eval run` (starter_arms.json), and what the
recipe named by "command" printed (starter_*.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS / "results"
PAGES = (DOCS.parent / "README.md", DOCS / "results.md")
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
SHAPES = {"sd15": "SD 1.5, 512 px", "sdxl": "SDXL, 1024 px", "sd3": "SD3 medium, 1024 px",
          "flux": "Flux, 1024 px"}  # fmt: skip
COSTS = {  # column -> variant of `clipguide bench`, decimals
    "noisy, teacher's tower": ("noisy + teacher's tower", 3),
    "noisy, ViT tower": ("noisy + ViT tower", 3),
    "x0 + tiny AE": ("x0 + tiny AE", 2),
    "x0 + VAE": ("x0 + VAE", 2),
    "xt + tiny AE": ("xt + tiny AE", 2),
    "xt + VAE": ("xt + VAE", 2),
}
Row = Mapping[str, Any]


def step_costs(found: Row) -> str:
    """Operations of a guided step over those of an unguided one."""
    ratios = {(row["shape"], row["variant"]): row["flop_ratio"] for row in found["steps"]}
    rows = [
        [title, *(f"{ratios[shape, variant]:.{digits}f}" for variant, digits in COSTS.values())]
        for shape, title in SHAPES.items()
    ]
    return markdown(["", *COSTS], rows)


def starter_clips(found: Row) -> str:
    """What the bundled CLIPs and the oracle tell apart."""
    rows = [[row["what"], row["measured_on"], _told_apart(row)] for row in found["rows"]]
    return markdown(["what", "measured on", "figure"], rows)


def _told_apart(row: Row) -> str:
    if "right" in row:
        return f"{row['right']:g} %, {row['refused']:g} %"
    each = [", ".join(f"{name} {rate:.1f} %" for name, rate in row[of].items())
            for of in ("scenes", "previews")]  # fmt: skip
    return "; ".join(each)


def starter_previews(found: Row) -> str:
    """Guidance and search by previews."""
    rows = [
        [row["way"], f"{row['oracle']:.1f} %", f"{row['unseen']} %",
         _cosine(row["guiding"]), _cosine(row["judge"])]
        for row in found["rows"]
    ]  # fmt: skip
    return markdown(["", "oracle", "unseen combinations", "guiding CLIP", "held-out CLIP"], rows)


def starter_ways(found: Row) -> str:
    """Guidance and search by the noisy latents."""
    rows = [
        [row["way"], f"{row['oracle']:.1f} % ({row['interval'][0]} to {row['interval'][1]})",
         f"{row['unseen']} %", f"{_cosine(row['guiding'])} / {_cosine(row['judge'])}",
         ", ".join(f"{_cosine(value, 2)} {how}" for how, value in row["seconds"].items())]
        for row in found["rows"]
    ]  # fmt: skip
    return markdown(["", "oracle", "unseen", "guiding / held-out CLIP", "CPU seconds"], rows)


def starter_arms(found: Row) -> str:
    """The arms of an experiment, by the oracle and by every judge, and held against the baseline.

    Intervals are 95 %; p is Wilcoxon's by the headline, by Holm over all pairs of arms and judges.
    """
    judges = [name for name in found["scorers"] if name != "oracle"]
    against = {
        duel["a"]: duel
        for duel in found["duels"]
        if duel["b"] == found["baseline"] and duel["scorer"] == found["headline"]
    }
    rows = [
        [name, _percent(arm["means"]["oracle"]), *(_mean(arm["means"][judge]) for judge in judges),
         *_duel(against.get(name)), f"{arm['calls']:g}"]
        for name, arm in found["arms"].items()
    ]  # fmt: skip
    won = f"wins against {found['baseline']} by {found['headline']}"
    return markdown(["", "oracle", *judges, won, "p", "denoiser calls"], rows)


def _duel(duel: Row | None) -> list[str]:
    if duel is None:
        return ["", ""]
    low, high = duel["win_interval"]
    return [f"{duel['win_rate']:.0f} % ({low:.0f} to {high:.0f})", f"{duel['p_holm']:.1g}"]


def _percent(mean: Row) -> str:
    low, high = mean["interval"]
    return f"{100 * mean['mean']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def _mean(mean: Row) -> str:
    low, high = mean["interval"]
    return f"{_cosine(mean['mean'])} ({_cosine(low)} to {_cosine(high)})"


def _cosine(value: float, digits: int = 3) -> str:
    """.505: numbers below 1 without the 0 before the point."""
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a bar in a cell would end it."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"|{'|'.join(map(_cell, line))}|\n" for line in lines)


def _cell(text: str) -> str:
    return " " + text.replace("|", "\\|") + " " * bool(text)


TABLES: dict[str, Callable[[Row], str]] = {
    table.__name__: table
    for table in (step_costs, starter_clips, starter_previews, starter_ways, starter_arms)
}
"""Name of a marker, and of its file in docs/results -> what makes the table."""


def filled(text: str) -> str:
    """A page with every table made anew.

    Raises:
        FileNotFoundError: a marker that names no table.
    """

    def table(marked: re.Match[str]) -> str:
        name = marked[2]
        found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return f"{marked[1]}\n{TABLES[name](found)}\n{marked[3]}"

    return MARKED.sub(table, text)


def main() -> None:
    """Writes the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
