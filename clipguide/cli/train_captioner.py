"""`clipguide train` of a captioner: a configuration with a table `captioner`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import Figures, TrainCommand, left_out, preparing, say_where

if TYPE_CHECKING:
    from clipguide.training.caption_run import CaptionRun

_SHOWN = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")


def _run(config: Path, changes: Sequence[str]) -> CaptionRun:
    from clipguide.evaluation.caption_metrics import caption_report
    from clipguide.training.caption_config import CaptionConfig
    from clipguide.training.caption_run import CaptionRun
    from clipguide.training.run_config import read_run_config

    settings = read_run_config(config, changes, CaptionConfig)
    quiet_libraries()
    return CaptionRun(settings, caption_report, left_out, preparing)


def _line(figures: Figures) -> str:
    found = [f"{name} {100 * figures[name]:.1f}" for name in _SHOWN if name in figures]
    return "  ".join([f"loss {figures['loss']:.3f}", *found])


def _show(results: Figures) -> None:
    from clipguide.report.table import format_table

    rows = [
        (split, writing, *(100 * figures[name] for name in _SHOWN))
        for split in ("dev", "test") if split in results
        for writing, figures in results[split].items()
    ]  # fmt: skip
    typer.echo(format_table(["split", "captions", *_SHOWN], rows, digits=1))
    say_where(results)


TRAIN_CAPTIONER = TrainCommand(_run, _line, _show)
"""Trains a captioner."""
