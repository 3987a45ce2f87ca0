"""`clipguide train`: a CLIP, a latent scorer, a captioner, a text tower of another language."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clipguide.cli.output import JsonOption, emit, say
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import left_out, preparing, train_shown


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A .toml or .yaml file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=C", help="Change a setting: train.seed=1, output=DIR."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in output, which must be there.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a CLIP, a captioner or a language's text tower; the model is saved in output."""
    from clipguide.cli.train_captioner import train_captioner
    from clipguide.cli.train_language import train_language
    from clipguide.cli.train_latent import train_latent
    from clipguide.evaluation.recall import recall_report
    from clipguide.training.caption_config import is_captioner
    from clipguide.training.clip_run import ClipRun
    from clipguide.training.config import read_config
    from clipguide.training.distillation_config import is_latent
    from clipguide.training.language_config import is_language

    if is_latent(config):
        train_latent(config, changes or [], resume=resume, json=json)
        return
    if is_language(config):
        train_language(config, changes or [], resume=resume, json=json)
        return
    if is_captioner(config):
        train_captioner(config, changes or [], resume=resume, json=json)
        return
    settings = read_config(config, changes or [])
    quiet_libraries()
    run = ClipRun(settings, recall_report, left_out, preparing)
    main = run.processes.main
    results = train_shown(run, summary, resume=resume, shown=main)
    run.processes.close()
    if json and main:
        emit(results)
    elif main:
        _print(results)


def summary(figures: Mapping[str, Any]) -> str:
    """One line: the loss beside its value of collapse, recall of both directions."""
    parts = [f"loss {figures['loss']:.3f} (collapsed: {figures['collapsed']:.3f})"]
    for direction in ("text_to_image", "image_to_text"):
        found = figures[direction]
        low, high = found["R@10 95%"]
        recall = "/".join(f"{found[f'R@{k}']:.1f}" for k in (1, 5, 10))
        rank = f"median rank {found['median rank']:g}"
        parts.append(
            f"{direction.replace('_', ' ')} R@1/5/10 {recall} [{low:.1f}, {high:.1f}] {rank}"
        )
    return "  ".join(parts)


def _print(results: Mapping[str, Any]) -> None:
    from clipguide.report.table import format_table

    rows = [
        (split, direction.replace("_", " "), *(figures[f"R@{k}"] for k in (1, 5, 10)),
         figures["median rank"])
        for split in ("dev", "test") if split in results
        for direction, figures in results[split].items()
    ]  # fmt: skip
    typer.echo(format_table(["split", "direction", "R@1", "R@5", "R@10", "median rank"], rows))
    verdict = "collapsed" if results["collapsed"] else "not collapsed"
    seconds = results["seconds"]["training"]
    say(f"{results['loss']}: {verdict}; {seconds:.1f} s of training; {results['output']}")
