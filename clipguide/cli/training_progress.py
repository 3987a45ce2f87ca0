"""What a run of training shows on stderr while it goes on: a bar of its steps, a line an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clipguide.cli.output import note

if TYPE_CHECKING:
    from clipguide.training.training_run import TrainingRun


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
