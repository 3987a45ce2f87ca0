"""What a run of training shows: a bar of its steps, a line an epoch, its figures at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from clipguide.cli.output import emit, note, say

if TYPE_CHECKING:
    from clipguide.training.training_run import TrainingRun

Figures: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class TrainCommand:
    """`clipguide train` of one kind of model.

    Attributes:
        run: a settings file and its changes -> the run, ready to train.
        line: the figures of an epoch, or of a split, in one line.
        show: prints the results; None: a line for each split, and where the model is.
    """

    run: Callable[[Path, Sequence[str]], TrainingRun[Any]]
    line: Callable[[Figures], str]
    show: Callable[[Figures], None] | None = None

    def __call__(self, config: Path, changes: Sequence[str], *, resume: bool, json: bool) -> None:
        """Train, and print the figures."""
        run = self.run(config, changes)
        main = run.processes.main
        results = train_shown(run, self.line, resume=resume, shown=main)
        run.processes.close()
        if not main:
            return
        if json:
            emit(results)
        elif self.show:
            self.show(results)
        else:
            show_splits(results, self.line)


def show_splits(results: Figures, line: Callable[[Figures], str]) -> None:
    """A line for each split, and where the model is."""
    for split in ("dev", "test"):
        if split in results:
            say(f"{split}: {line(results[split])}")
    say_where(results)


def say_where(results: Figures) -> None:
    """How long it took, and where the model is."""
    say(f"{results['seconds']:.1f} s of training; {results['output']}")


def preparing(parts: Iterable[Any], what: str) -> Iterable[Any]:
    """The parts with a bar, for what a run computes before its first step."""
    from tqdm import tqdm

    return tqdm([*parts], desc=what, leave=False, delay=1.0)


def left_out(line: str) -> None:
    """A line about data that cannot be used."""
    note(f"clipguide: {line}")


def train_shown(
    run: TrainingRun[Any],
    line_of: Callable[[Mapping[str, Any]], str],
    *,
    resume: bool,
    shown: bool = True,
) -> dict[str, Any]:
    """Train to the end and return the results.

    Args:
        run: ready to train.
        line_of: figures of an epoch -> how they are shown.
        resume: go on with the run that is there.
        shown: whether there is a bar; one of several processes shows it.
    """
    from tqdm import tqdm

    with tqdm(total=None, unit="step", leave=False, delay=1.0, disable=not shown) as bar:

        def on_step(step: int, steps: int, loss: float) -> None:
            bar.total = steps
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(step - bar.n)

        def on_epoch(epoch: int, figures: Mapping[str, Any]) -> None:
            note(f"epoch {epoch}  {line_of(figures)}")

        return run.train(resume=resume, on_step=on_step, on_epoch=on_epoch)
