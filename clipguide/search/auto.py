"""The method of a search by a small measured table: of what kind pipeline and scorer are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from clipguide.search.best_of import BestOf
from clipguide.search.candidate import Candidate
from clipguide.search.preview_rewards import ARRAYS, Floats, PreviewRewards
from clipguide.search.prune import Prune
from clipguide.search.pruning_replay import Gain, best_of_plan
from clipguide.search.rollout import Rollout

TABLE = Path(__file__).parent / "auto_table.json"
"""What `clipguide bench auto` printed."""
FEW_CALLS = 8
"""Below so many denoiser calls a trajectory nothing was measured, and previews are hardly cheaper
than pictures."""

METHODS = {"best_of": BestOf(), "prune": Prune()}
"""What the table names."""


@dataclass(frozen=True)
class Auto:
    """Best of N or pruned, whichever was measured to gain with such a scorer at such a budget.

    The table (`TABLE`, made by `clipguide bench auto`) has a row for each kind of scorer, made for
    previews (`Reward.noise_aware`) or as published, and budget: "prune" where its default gained
    over "best_of" at equal denoiser calls beyond chance. The row of the largest budget that is not
    above the given one counts. A pipeline of fewer than 8 calls, or a smaller budget than any row:
    "best_of".

    Cost: that of the method chosen, within `budget` trajectories. Returns what it returns.
    Source: rewards published with TTSnap (2025, https://arxiv.org/abs/2511.22242), replayed.
    """

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        aware = rollout.rewards.at("preview").noise_aware
        name = method_for(rollout.calls(), budget, noise_aware=aware)
        return METHODS[name](rollout, budget, seed)

    def seeds(self, budget: int) -> int:
        """As many seeds as a search may draw from, whichever it is."""
        return Prune().seeds(budget)


def method_for(calls: int, budget: int, *, noise_aware: bool) -> str:
    """The name of the method for a pipeline of so many denoiser calls."""
    if calls < FEW_CALLS:
        return "best_of"
    kind = next(name for name, aware in ARRAYS.items() if aware == noise_aware)
    rows = [row for row in _rows() if row["scorer"] == kind and row["budget"] <= budget]
    best = max(rows, key=lambda row: int(row["budget"]), default={"method": "best_of"})
    return str(best["method"])


@cache
def _rows() -> tuple[Mapping[str, Any], ...]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(cast("list[Mapping[str, Any]]", table["rows"]))


def make_table(recorded: Sequence[PreviewRewards], budgets: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each kind of scorer there is among the recorded ones, and budget.

    `gain` is that of `Prune()` over best of N, in deviations of the score within a prompt, the mean
    over all prompts of all files of the kind, `interval` its 95 % interval; `method` is "prune"
    where the whole interval is above 0.
    """
    rows: list[dict[str, Any]] = []
    for kind, aware in ARRAYS.items():
        files = [rewards for rewards in recorded if rewards.noise_aware == aware]
        for budget in budgets if files else ():
            gain = Gain.of(np.concatenate([_gains(rewards, budget) for rewards in files]))
            method = "prune" if gain.low > 0 else "best_of"
            row = {"scorer": kind, "budget": budget, "method": method}
            figures = {"gain": round(gain.mean, 3)}
            rows.append(row | figures | {"interval": [round(gain.low, 3), round(gain.high, 3)]})
    return rows


def _gains(rewards: PreviewRewards, budget: int) -> Floats:
    """Of each prompt."""
    orders = rewards.orders()
    plan = Prune().plan(budget, rewards.steps, noise_aware=rewards.noise_aware)
    pruned, plain = (rewards.replay(some, orders) for some in (plan, best_of_plan(budget)))
    gains: Floats = (pruned - plain).mean(axis=0)
    return gains
