"""One training loop for every recipe: AdamW, warm-up and cosine decay, EMA, resume to the bit.

A step's randomness comes from a generator derived from (seed, step), so a run that was killed and
resumed sees the same batches and the same noise as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.seeds import derive_generator
from clipguide.training.checkpoint import Checkpoint, buffers_of
from clipguide.training.optimizer_settings import OptimizerSettings
from clipguide.training.processes import Processes
from clipguide.training.ranges import (
    ABOVE_ZERO,
    BELOW_ONE,
    FACTOR,
    RATE,
    SEED,
    Range,
    check_ranges,
)

StepFunction = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(step, generator) -> losses by name; the one called "loss" is minimised."""


_RANGES = {
    **dict.fromkeys(("steps", "log_every", "save_every"), Range(1)),
    "warmup": Range(0),
    "weight_decay": FACTOR,
    "learning_rate": RATE,
    "max_grad_norm": ABOVE_ZERO,
    "ema_decay": BELOW_ONE,
    "seed": SEED,
}


class DivergedError(ValueError):
    """A loss or a weight is not finite any more: the run was stopped before its checkpoint."""


@dataclass(frozen=True)
class LoopSettings(OptimizerSettings):
    """Settings of one run; times and counts are in optimiser steps.

    Raises:
        ValueError: a number out of its range.
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.0
    log_every: int = 50
    save_every: int = field(default=250, kw_only=True)

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if any(beta not in BELOW_ONE for beta in self.betas):
            raise ValueError(f"got betas {self.betas}, expected each {BELOW_ONE}")


def learning_rate_at(step: int, settings: LoopSettings) -> float:
    """Linear warm-up, then half a cosine down to zero at ``settings.steps``."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def train(
    modules: Mapping[str, nn.Module],
    step_function: StepFunction,
    settings: LoopSettings,
    folder: Path,
    log: Callable[[str], None],
    *,
    rate_of: Callable[[str], float] = lambda name: 1.0,
    processes: Processes | None = None,
    on_step: Callable[[int, Mapping[str, Tensor], Mapping[str, float]], None] | None = None,
) -> dict[str, Tensor]:
    """Train what requires gradients in ``modules``, on from the checkpoint in ``folder`` if any.

    Args:
        modules: by name; their trainable parameters are optimised in place.
        step_function: computes the losses of one step. **Cost**: called once per step.
        settings: see :class:`LoopSettings`.
        folder: where ``state.safetensors`` is kept (weights, buffers such as the statistics of
            batch normalisation, optimiser, EMA and step; atomic).
        log: receives one line every ``log_every`` steps.
        rate_of: name of a parameter -> factor on its learning rate (layer-wise rates).
        processes: of the run, each of which calls this; one, in float32, when not given.
        on_step: called with the steps done, the averaged parameters and the losses after every
            step, before its checkpoint: what it writes is never older than the checkpoint.

    Returns:
        The averaged (EMA) parameters by name, or the parameters themselves without EMA.

    Raises:
        DivergedError: a loss or a parameter is not finite; the checkpoint before stays.
    """
    parameters = {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.named_parameters()
        if value.requires_grad
    }
    processes = processes or Processes()
    optimizer = torch.optim.AdamW(
        _groups(parameters, rate_of),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
    )
    average = {name: value.detach().clone() for name, value in parameters.items()}
    trained = [*parameters.values()]
    checkpoint = Checkpoint(parameters, average, optimizer, buffers_of(modules), processes)
    saved = first = checkpoint.restore(folder)
    started, running = time.perf_counter(), dict[str, float]()
    root = torch.Generator().manual_seed(settings.seed)
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings) * group["factor"]
        losses = step_function(step, derive_generator(root, f"step {step}"))
        figures_now = {name: float(value.detach()) for name, value in losses.items()}
        _check_losses(figures_now, step + 1, saved)
        optimizer.zero_grad(set_to_none=True)
        processes.backward(losses["loss"])
        processes.step(optimizer, trained, settings.max_grad_norm)
        _check_parameters(parameters, step + 1, saved)
        _update_average(average, parameters, min(settings.ema_decay, (1 + step) / (10 + step)))
        for name, value in figures_now.items():
            running[name] = running.get(name, 0.0) + value / settings.log_every
        if (step + 1) % settings.log_every == 0:
            pace = (time.perf_counter() - started) / (step + 1 - first)
            figures = "  ".join(f"{name} {value:.4f}" for name, value in running.items())
            log(f"step {step + 1}/{settings.steps}  {figures}  {pace:.2f} s/step")
            running.clear()
        if on_step is not None:
            on_step(step + 1, average, figures_now)
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            saved = step + 1
            if processes.main:
                checkpoint.save(folder, saved)
    return average


def _check_losses(figures: Mapping[str, float], step: int, saved: int) -> None:
    """Stop before the optimiser steps along a gradient that is not finite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise DivergedError(_diverged(f"{name} {value}", step, saved))


def _check_parameters(parameters: Mapping[str, nn.Parameter], step: int, saved: int) -> None:
    """Stop before weights that are no numbers are evaluated or kept.

    One sum of each tensor, which is not finite where one of its numbers is not: a pass over the
    weights, where AdamW makes several.
    """
    sums = torch.stack([value.detach().sum().float() for value in parameters.values()])
    if not bool(sums.isfinite().all()):
        name = next(n for n, v in parameters.items() if not bool(v.detach().sum().isfinite()))
        raise DivergedError(_diverged(f"weights {name} after the step", step, saved))


def _diverged(what: str, step: int, saved: int) -> str:
    kept = f"the checkpoint of step {saved} is kept" if saved else "no checkpoint was made"
    return (
        f"step {step}: got {what}, expected finite numbers: the run has diverged; {kept}; "
        "lower learning_rate or max_grad_norm in another output"
    )


def _groups(
    parameters: Mapping[str, nn.Parameter], rate_of: Callable[[str], float]
) -> list[dict[str, Any]]:
    """The parameters by the factor on their learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, value in parameters.items():
        groups.setdefault(rate_of(name), []).append(value)
    return [{"params": values, "factor": factor} for factor, values in groups.items()]


def _update_average(
    average: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], decay: float
) -> None:
    targets, sources = list(average.values()), [value.detach() for value in parameters.values()]
    # one call for all tensors, as torch.optim makes it; torch has no public name for it
    lerp = torch._foreach_lerp_  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    lerp(targets, sources, 1.0 - decay)
