"""`clipguide train` of a latent scorer: a configuration with a table `latent`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipguide.cli.output import emit, note
from clipguide.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor


def train_latent(config: Path, changes: Sequence[str], *, resume: bool, json: bool) -> None:
    """Make a latent scorer from a teacher, and print its figures."""
    from tqdm import tqdm

    from clipguide.training.distillation_config import read_distill_config
    from clipguide.training.distillation_run import DistillationRun

    settings = read_distill_config(config, changes)
    quiet_libraries()

    def bar(parts: Iterable[Any], what: str) -> Iterable[Any]:
        return tqdm([*parts], desc=what, leave=False, delay=1.0)

    run = DistillationRun(settings, _recall, lambda line: note(f"clipguide: {line}"), bar)
    with tqdm(total=None, unit="step", leave=False, delay=1.0) as shown:

        def on_step(step: int, steps: int, loss: float) -> None:
            shown.total = steps
            shown.set_postfix(loss=f"{loss:.3f}", refresh=False)
            shown.update(step - shown.n)

        def on_epoch(epoch: int, figures: Mapping[str, Any]) -> None:
            note(f"epoch {epoch}  {_line(figures)}")

        results = run.train(resume=resume, on_step=on_step, on_epoch=on_epoch)
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
