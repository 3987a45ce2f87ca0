"""`clipguide train` of a latent scorer: a configuration with a table `latent`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipguide.cli.output import emit
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import left_out, preparing, train_shown

if TYPE_CHECKING:
    from torch import Tensor


def train_latent(config: Path, changes: Sequence[str], *, resume: bool, json: bool) -> None:
    """Make a latent scorer from a teacher, and print its figures."""
    from clipguide.training.distillation_config import read_distill_config
    from clipguide.training.distillation_run import DistillationRun

    settings = read_distill_config(config, changes)
    quiet_libraries()
    run = DistillationRun(settings, _recall, left_out, preparing)
    results = train_shown(run, _line, resume=resume)
    if json:
        emit(results)
        return
    for split in ("dev", "test"):
        if split in results:
            typer.echo(f"{split}: {_line(results[split])}")
    typer.echo(f"{results['seconds']:.1f} s of training; {results['output']}")


def _recall(images: Tensor, texts: Tensor, owners: Tensor) -> float:
    from clipguide.evaluation.recall import retrieval

    return retrieval(images, texts, owners)["text_to_image"].at[10]


def _line(figures: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
