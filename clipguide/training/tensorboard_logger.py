"""The curves of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipguide.extras import need
from clipguide.training.run_files import flat_figures


class TensorBoardLogger:
    """Writes the curves of a run.

    Args:
        folder: where; None writes nothing.

    Raises:
        ValueError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writer: Any = None
        if folder is not None:
            self._kind = need("torch.utils.tensorboard", "tensorboard").SummaryWriter

    @property
    def on(self) -> bool:
        return self._folder is not None

    def step(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures after a step; the first call of a resumed run removes the points after it."""
        if self._folder is None:
            return
        if self._writer is None:
            self._writer = self._kind(str(self._folder), purge_step=step)
        for name, value in figures.items():
            self._writer.add_scalar(f"step/{name}", value, step)

    def epoch(self, step: int, figures: Mapping[str, Any]) -> None:
        """Figures of an epoch, at the step it ends with."""
        if self._writer is not None:
            for name, value in flat_figures(figures).items():
                self._writer.add_scalar(f"epoch/{name.replace(' ', '/')}", value, step)
            self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
