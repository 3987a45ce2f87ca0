"""`clipguide train` of a text tower of a language: a configuration with a table `language`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from clipguide.cli.output import emit
from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import preparing, train_shown


def train_language(config: Path, changes: Sequence[str], *, resume: bool, json: bool) -> None:
    """Teach a text encoder the space of a CLIP, and print its figures."""
    from clipguide.training.language_config import read_language_config
    from clipguide.training.language_run import LanguageRun

    settings = read_language_config(config, changes)
    quiet_libraries()
    run = LanguageRun(settings, preparing)
    results = train_shown(run, _line, resume=resume)
    if json:
        emit(results)
        return
    for split in ("dev", "test"):
        if split in results:
            typer.echo(f"{split}: {_line(results[split])}")
    typer.echo(f"{results['seconds']:.1f} s of training; {results['output']}")


def _line(figures: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
