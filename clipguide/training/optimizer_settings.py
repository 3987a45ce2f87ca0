"""The settings of the optimiser that every run has, with one default for all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights are stepped and kept.

    Attributes:
        weight_decay: of AdamW.
        max_grad_norm: a longer gradient is scaled down to this length.
        seed: of everything that a step draws.
        save_every: steps between checkpoints.
    """

    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0
    save_every: int = 100
