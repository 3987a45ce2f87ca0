"""`clipguide eval run`: prompts by arms; generates, scores, compares, and writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.output import EngineOption, JsonOption, emit, note, say
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from clipguide.generation.experiment import Experiment

Design = Annotated[
    Path | None, typer.Argument(metavar="EXPERIMENT.toml", help="Prompts, arms and judges.")
]
ArmsOption = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="NAME=DIR", help="Pictures made elsewhere; two or more arms."),
]
JudgesOption = Annotated[
    list[str] | None, typer.Option("--judge", help="Of --arm: a scorer; two or more.")
]
PromptsOption = Annotated[
    Path | None,
    typer.Option("--prompts", help="Of --arm: a prompt a picture. [what the pictures say]"),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of the run; goes on where it is.")]
HTML = "report.html"


def run(
    experiment: Design = None,
    arm: ArmsOption = None,
    judge: JudgesOption = None,
    prompts: PromptsOption = None,
    out: OutOption = Path("clipguide-eval"),
    engine: EngineOption = "here",
    json: JsonOption = False,
) -> None:
    """Compare settings on the same prompts and seeds; report.html shows every number and picture.

    Every guided arm is held against classifier-free guidance of equal displacement and against
    best-of-N of equal denoiser calls; at least two judges. A run that was stopped goes on. Under
    `accelerate launch` or with --engine ray several processes share the pictures.
    """
    if (experiment is None) == (arm is None):
        raise Mistake("give either EXPERIMENT.toml, or --arm NAME=DIR two or more times")
    if experiment is not None and (judge or prompts):
        raise Mistake("got --judge or --prompts with EXPERIMENT.toml, which says both itself")
    from clipguide.files import write_text
    from clipguide.generation.experiment import read_experiment
    from clipguide.generation.experiment_run import run_experiment
    from clipguide.report.experiment_page import experiment_page
    from clipguide.workers import find_workers

    quiet_libraries()
    design = (
        read_experiment(experiment)
        if experiment is not None
        else _of_folders(arm or [], judge or [], prompts)
    )
    for line in design.warnings:
        note(f"clipguide: {line}")
    workers = find_workers(engine)
    summary = run_experiment(design, out, lambda line: note(f"clipguide: {line}"), workers)
    if not workers.main:
        return
    write_text(out / HTML, experiment_page(out))
    note(f"clipguide: wrote {out / HTML}")
    if json:
        emit(summary)
    else:
        _print(summary)


def _of_folders(arms: list[str], judges: list[str], prompts: Path | None) -> Experiment:
    from clipguide.data.prompt_files import read_prompt_rows
    from clipguide.generation.experiment import Arm, Experiment, Judging, check_judged
    from clipguide.generation.foreign_arms import prompts_said

    folders: dict[str, Path] = {}
    for given in arms:
        name, equals, place = given.partition("=")
        if not (name.strip() and equals and place) or name in folders:
            raise Mistake(f"got --arm {given!r}, expected NAME=DIR, each name once")
        if not Path(place).is_dir():
            raise Mistake(f"{place}: no such folder (--arm {name})")
        folders[name] = Path(place)
    if len(folders) < 2:
        raise Mistake(f"got {len(folders)} --arm, expected two or more")
    if len(judges) < 2:
        raise Mistake(f"got {len(judges)} --judge, expected two or more: never one judge")
    first = next(iter(folders.values()))
    asked, num = prompts_said(first) if prompts is None else (read_prompt_rows(prompts), 1)
    listed = tuple(Arm(name, folder=place) for name, place in folders.items())
    judging = Judging(tuple(judges), judges[0], listed[0].name)
    design = Experiment(tuple(asked), listed, judging, num=num)
    check_judged(design)
    return design


def _print(summary: dict[str, Any]) -> None:
    from clipguide.report.table import Cell, format_table

    columns = [*summary["scorers"], "oracle"]
    columns = [c for c in columns if any(c in arm["means"] for arm in summary["arms"].values())]
    rows: list[list[Cell]] = [
        [name, *(_shown(arm["means"].get(column)) for column in columns), arm["calls"]]
        for name, arm in summary["arms"].items()
        if arm["error"] is None
    ]
    typer.echo(format_table(["arm", *columns, "calls"], rows))
    duels = [
        duel
        for duel in summary["duels"]
        if duel["b"] == summary["baseline"] and duel["scorer"] == summary["headline"]
    ]
    for duel in duels:
        low, high = duel["win_interval"]
        won = f"wins {duel['win_rate']:.1f} % [{low:.1f}, {high:.1f}] of {duel['prompts']}"
        say(f"{duel['a']} {won} against {duel['b']} by {duel['scorer']}, p {duel['p_holm']:.2g}")
    for gap in summary["hacking"]:
        low, high = gap["interval"]
        by = f"{gap['guiding']} {gap['win_guiding']:.1f} %, {gap['judge']} {gap['win_judge']:.1f} %"
        say(f"{gap['arm']}: hacking gap {gap['gap']:+.1f} [{low:+.1f}, {high:+.1f}] points ({by})")
    for line in summary["warnings"]:
        say(f"warning: {line}")


def _shown(mean: dict[str, Any] | None) -> str | None:
    if mean is None:
        return None
    if mean["interval"] is None:
        return f"{mean['mean']:.3f}"
    low, high = mean["interval"]
    return f"{mean['mean']:.3f} [{low:.3f}, {high:.3f}]"
