"""`clipguide train` of a text tower of a language: a configuration with a table `language`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import Figures, TrainCommand, preparing

if TYPE_CHECKING:
    from clipguide.training.language_run import LanguageRun


def _run(config: Path, changes: Sequence[str]) -> LanguageRun:
    from clipguide.training.language_config import LanguageConfig
    from clipguide.training.language_run import LanguageRun
    from clipguide.training.run_config import read_run_config

    settings = read_run_config(config, changes, LanguageConfig)
    quiet_libraries()
    return LanguageRun(settings, preparing)


def _line(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in figures.items())


TRAIN_LANGUAGE = TrainCommand(_run, _line)
"""Teaches a text encoder the space of a CLIP."""
