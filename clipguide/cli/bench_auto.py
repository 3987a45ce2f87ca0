"""`clipguide bench auto`: the table that --search auto chooses its method by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipguide.cli.output import JsonOption, emit, say


def auto(
    replay: Annotated[
        list[Path],
        typer.Option("--replay", help="Rewards by step, as of `bench prune`; may be repeated."),
    ],
    budget: Annotated[
        list[int] | None, typer.Option("--budget", min=1, help="May be repeated. [2 4 8 16]")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the table of --search auto from recorded rewards of previews; no model runs.

    A row for each kind of scorer and budget: prune where its default gains over best_of at equal
    denoiser calls beyond chance. The shipped table is `clipguide/search/auto_table.json`.
    """
    from clipguide.search.auto import make_table
    from clipguide.search.preview_rewards import ARRAYS, arrays_of, load_preview_rewards

    recorded = [
        load_preview_rewards(file, name) for file in replay for name in ARRAYS
        if name in arrays_of(file)
    ]  # fmt: skip
    rows = make_table(recorded, budget or [2, 4, 8, 16])
    if json:
        emit({"files": [file.name for file in replay], "rows": rows})
        return
    from clipguide.report.table import format_table

    columns = ["scorer", "budget", "method", "gain", "95 % interval"]
    cells = [
        [row["scorer"], str(row["budget"]), row["method"], f"{row['gain']:.3f}",
         f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}"] for row in rows
    ]  # fmt: skip
    for line in format_table(columns, cells).splitlines():
        say(line)
