"""`clipguide bench`: what a guided step costs over an unguided one, and commands below it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clipguide.cli.bench_auto import auto
from clipguide.cli.bench_prune import prune
from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import DeviceOption, JsonOption, emit, note
from clipguide.cli.quiet import quiet_libraries

app = typer.Typer(rich_markup_mode=None)
app.command("prune")(prune)
app.command("auto")(auto)


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    shapes: Annotated[
        str, typer.Option("--shapes", help="Some of sd15,sdxl,sd3,flux, with commas.")
    ] = "sd15,sdxl,sd3,flux",
    repeats: Annotated[
        int, typer.Option("--repeats", min=0, help="Timed calls of each; 0 only counts.")
    ] = 3,
    device: DeviceOption = "cpu",
    json: JsonOption = False,
) -> None:
    """Measure guided steps: operations at real size, seconds and memory as ratios of one run.

    On a CPU the timed models are an eighth as wide and smaller; on CUDA they are real, in bf16.
    The community algorithm (one more denoiser branch, full decode, 4 cutouts) runs beside ours.
    """
    if context.invoked_subcommand is not None:
        return
    names = [name.strip() for name in shapes.split(",") if name.strip()]
    from clipguide.evaluation.cost.shapes import SHAPES

    unknown = [name for name in names if name not in SHAPES]
    if unknown or not names:
        raise Mistake(f"got --shapes {shapes!r}, expected some of {','.join(SHAPES)}")
    quiet_libraries()
    from clipguide.evaluation.cost.table import shape_rows

    rows: list[dict[str, Any]] = []
    for name in names:
        note(f"{name}: counting{' and timing' if repeats else ''} ...")
        rows += shape_rows(SHAPES[name], device, repeats)
    if json:
        from clipguide.evaluation.cost.table import added

        against = {key: added(rows, key) for key in ("flop_ratio", "seconds_ratio")}
        emit({"device": device, "repeats": repeats, "steps": rows, "community_over_ours": against})
        return
    from clipguide.report.table import format_table

    columns = ["shape", "variant", "TFLOP", "x FLOP", "target", "ms", "x time", "MiB", "x memory"]
    typer.echo(format_table(columns, [list(row.values()) for row in rows]))
    for line in _against_community(rows):
        typer.echo(line)


def _against_community(rows: list[dict[str, Any]]) -> list[str]:
    """How many times cheaper the x0 step with the tiny autoencoder is than the community's."""
    from clipguide.evaluation.cost.table import added

    lines: list[str] = []
    for key, what in (("flop_ratio", "operations"), ("seconds_ratio", "time")):
        ratio = added(rows, key)
        if ratio is not None:
            lines.append(f"added {what}: the community algorithm's are {ratio:.1f} x ours")
    return lines
