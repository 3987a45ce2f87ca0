"""What every run of training has: a configuration, its data, and `train`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from clipguide.data.pairs import Pairs
from clipguide.training.processes import Processes
from clipguide.training.run_config import RunConfig
from clipguide.training.run_files import fingerprint, open_run

C = TypeVar("C", bound=RunConfig)
Progress = Callable[[Iterable[Any], str], Iterable[Any]]
"""Wraps batches that are computed once, with a description."""
OnStep = Callable[[int, int, float], None]
"""(steps done, steps in all, loss)."""
OnEpoch = Callable[[int, Mapping[str, Any]], None]
"""(epoch from 1, its figures)."""


def silent(parts: Iterable[Any], _what: str) -> Iterable[Any]:
    """The parts as they are: a `Progress` that shows nothing."""
    return parts


class TrainingRun(ABC, Generic[C]):
    """A run, ready to `train`.

    Args:
        config: of the run.
        processes: that make it.
    """

    def __init__(self, config: C, processes: Processes) -> None:
        self.config, self.processes = config, processes

    def train(
        self,
        *,
        resume: bool = False,
        on_step: OnStep = lambda step, steps, loss: None,
        on_epoch: OnEpoch = lambda epoch, figures: None,
    ) -> dict[str, Any]:
        """Train to the end, save the model into `output`, and return the results.

        Args:
            resume: go on from the checkpoint in `output`; without it a run there is an error.
            on_step: called with the steps done, the steps in all and the loss.
            on_epoch: called with the epoch, from 1, and its figures.

        Raises:
            ValueError: `output` holds a run already, or none to resume, or one of another
                configuration.
            DivergedError: a loss or a weight is not finite; the checkpoint before stays.
        """
        output, data = Path(self.config.output), self._fingerprint()
        history = open_run(output, self.config, data, resume, self.processes.main)
        self.processes.wait()
        return self._train(history, on_step, on_epoch)

    @abstractmethod
    def evaluate(self, split: str) -> dict[str, Any]:
        """The figures of a split with the parameters as they are."""

    def final_figures(self) -> dict[str, dict[str, Any]]:
        """Of the splits that results are given of."""
        return {name: self.evaluate(name) for name in ("dev", "test") if name in self.config.data}

    def _fingerprint(self) -> str:
        """Of all data."""
        return fingerprint(self._pairs())

    def _pairs(self) -> Iterable[Pairs]:
        """Images and captions of every split, in order; none where it is trained on others."""
        return ()

    @abstractmethod
    def _train(self, history: dict[str, Any], on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
        """What `train` does once the run is open; figures are added to the history by epoch."""
