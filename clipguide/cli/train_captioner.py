"""`clipguide train` of a captioner: a configuration with a table `captioner`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from clipguide.cli.output import emit
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import left_out, preparing, train_shown

_SHOWN = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")


def train_captioner(config: Path, changes: Sequence[str], *, resume: bool, json: bool) -> None:
    """Train a captioner, and print its figures."""
    from clipguide.evaluation.caption_metrics import caption_report
    from clipguide.training.caption_config import read_caption_config
    from clipguide.training.caption_run import CaptionRun

    settings = read_caption_config(config, changes)
    quiet_libraries()
    run = CaptionRun(settings, caption_report, left_out, preparing)
    results = train_shown(run, _line, resume=resume)
    if json:
        emit(results)
        return
    from clipguide.report.table import format_table

    rows = [
        (split, writing, *(100 * figures[name] for name in _SHOWN))
        for split in ("dev", "test") if split in results
        for writing, figures in results[split].items()
    ]  # fmt: skip
    typer.echo(format_table(["split", "captions", *_SHOWN], rows, digits=1))
    typer.echo(f"{results['seconds']:.1f} s of training; {results['output']}")


def _line(figures: Mapping[str, Any]) -> str:
    found = [f"{name} {100 * figures[name]:.1f}" for name in _SHOWN if name in figures]
    return "  ".join([f"loss {figures['loss']:.3f}", *found])
