"""`clipguide train` of a latent scorer: a configuration with a table `latent`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipguide.cli.quiet import quiet_libraries
from clipguide.cli.training_progress import Figures, TrainCommand, left_out, preparing

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.training.distillation_run import DistillationRun


def _run(config: Path, changes: Sequence[str]) -> DistillationRun:
    from clipguide.training.distillation_config import DistillConfig
    from clipguide.training.distillation_run import DistillationRun
    from clipguide.training.run_config import read_run_config

    settings = read_run_config(config, changes, DistillConfig)
    quiet_libraries()
    return DistillationRun(settings, _recall, left_out, preparing)


def _recall(images: Tensor, texts: Tensor, owners: Tensor) -> float:
    from clipguide.evaluation.recall import retrieval

    return retrieval(images, texts, owners)["text_to_image"].at[10]


def _line(figures: Figures) -> str:
    return "  ".join(f"{name} {value:.3g}" for name, value in figures.items())


TRAIN_LATENT = TrainCommand(_run, _line)
"""Makes a latent scorer from a teacher."""
