"""`clipguide bench prune`: what pruning gains over best of N, replayed on recorded rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import JsonOption, emit, say

ReplayOption = Annotated[
    Path,
    typer.Option(
        "--replay",
        help="An .npz file of rewards of x0 previews, arrays (prompts, pictures, steps), the last "
        "step the finished picture.",
    ),
]
ArrayOption = Annotated[
    str | None,
    typer.Option(
        "--array",
        help="frozen (a scorer as published) or noise_aware (one tuned on previews). "
        "[the one in the file]",
    ),
]
BudgetOption = Annotated[
    list[int] | None,
    typer.Option("--budget", min=1, help="Trajectories paid for; may be repeated. [2 4 8 16]"),
]


def prune(
    replay: ReplayOption,
    array: ArrayOption = None,
    budget: BudgetOption = None,
    json: JsonOption = False,
) -> None:
    """Replay best-of-N and the default of --search prune on recorded rewards; no model runs.

    Printed is the final reward of the picture chosen, in deviations within its prompt: the mean
    over prompts and 24 random orders of the pictures, at equal denoiser calls.
    """
    _check_array(array)
    from clipguide.search.preview_rewards import load_preview_rewards
    from clipguide.search.pruning_replay import compare_default

    rows = compare_default(load_preview_rewards(replay, array), budget or [2, 4, 8, 16])
    if json:
        kept = ("best_of", "default")
        emit({"budgets": {key: {name: row[name] for name in kept} for key, row in rows.items()}})
        return
    from clipguide.report.table import format_table

    columns = ["budget", "best_of", "default", "gain", "95 % interval", "looks", "samples"]
    for line in format_table(columns, [_row(key, row) for key, row in rows.items()]).splitlines():
        say(line)


def _check_array(array: str | None) -> None:
    if array not in (None, "frozen", "noise_aware"):
        raise Mistake(f"got --array {array!r}, expected frozen or noise_aware")


def _row(budget: str, row: dict[str, Any]) -> list[str]:
    low, high = row["interval"]
    figures = [f"{row[name]:.3f}" for name in ("best_of", "default", "gain")]
    looks, samples = (" ".join(map(str, row[name])) for name in ("looks", "samples"))
    return [budget, *figures, f"{low:.3f} to {high:.3f}", looks or "none", samples]
