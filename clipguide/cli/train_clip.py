"""`clipguide train` of a CLIP: a configuration with a table `model`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipguide.cli.output import say
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import Figures, TrainCommand, left_out, preparing

if TYPE_CHECKING:
    from clipguide.training.clip_run import ClipRun


def _run(config: Path, changes: Sequence[str]) -> ClipRun:
    from clipguide.evaluation.recall import recall_report
    from clipguide.training.clip_run import ClipRun
    from clipguide.training.config import read_config

    settings = read_config(config, changes)
    quiet_libraries()
    return ClipRun(settings, recall_report, left_out, preparing)


def _line(figures: Figures) -> str:
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


def _show(results: Figures) -> None:
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


TRAIN_CLIP = TrainCommand(_run, _line, _show)
"""Trains a CLIP."""
