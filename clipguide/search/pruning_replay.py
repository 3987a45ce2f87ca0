"""Pruning schedules compared on recorded rewards: what the default gains, what would be best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from clipguide.search.preview_rewards import Floats, PreviewRewards
from clipguide.search.prune import Prune
from clipguide.search.pruning_plan import PruningPlan

LOOKS = tuple(round(0.05 * place, 2) for place in range(2, 17))  # .1 to .8
KEPT = (0.25, 0.35, 0.65)
"""Shares tried after a single look, beside a half."""
CHOOSING_ORDERS = 8


@dataclass(frozen=True)
class Gain:
    """A mean over prompts with its 95 % interval (normal, prompts being the sample)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, per_prompt: Floats) -> Gain:
        """Of one number for each prompt."""
        count = len(per_prompt)
        error = float(per_prompt.std(ddof=1)) / count**0.5 if count > 1 else float("inf")
        mean = float(per_prompt.mean())
        return cls(mean, mean - 1.96 * error, mean + 1.96 * error)


def compare_default(rewards: PreviewRewards, budgets: Sequence[int]) -> dict[str, dict[str, Any]]:
    """For each budget: what "best_of" and `Prune()` end with, and what the second gains.

    `best_of` and `default` are the mean, over prompts and random orders of their pictures, of the
    chosen picture's reward in deviations within its prompt. Both see the same orders.
    """
    orders = rewards.orders()
    rows: dict[str, dict[str, Any]] = {}
    for budget in budgets:
        plain = rewards.replay(best_of_plan(budget), orders)
        plan = Prune().plan(budget, rewards.steps, noise_aware=rewards.noise_aware)
        pruned = rewards.replay(plan, orders)
        gain = Gain.of((pruned - plain).mean(axis=0))
        rows[str(budget)] = {
            "best_of": float(plain.mean()),
            "default": float(pruned.mean()),
            "gain": gain.mean,
            "interval": [gain.low, gain.high],
            "looks": list(plan.calls),
            "samples": list(plan.counts),
        }
    return rows


def affordable(rewards: PreviewRewards, budgets: Sequence[int]) -> list[int]:
    """Those of the budgets that start no more pictures than were recorded."""
    pictures, steps, aware = rewards.values.shape[1], rewards.steps, rewards.noise_aware
    plans = {budget: Prune().plan(budget, steps, noise_aware=aware) for budget in budgets}
    return [budget for budget, plan in plans.items() if plan.started <= pictures]


def best_of_plan(budget: int) -> PruningPlan:
    """Every sample is finished."""
    return PruningPlan((), (budget,))


def choose_schedule(rewards: PreviewRewards, budgets: Sequence[int]) -> dict[str, Any]:
    """The schedule to use: chosen on every second prompt, its gain measured on the others.

    The one of largest mean gain over "best_of" at `budgets`; the interval is honest, since the
    prompts that it is of had no say in the choice. `at` is None where nothing gained.

    Raises: ValueError for fewer than four prompts.
    """
    if len(rewards.values) < 4:
        raise ValueError(f"got {len(rewards.values)} prompts, expected at least 4 to choose on")
    chosen_on, held_out = (rewards.of_prompts(slice(half, None, 2)) for half in (0, 1))
    pictures = rewards.values.shape[1]
    known: dict[PruningPlan, float] = {}
    orders = chosen_on.orders(count=CHOOSING_ORDERS)

    def reward(plan: PruningPlan) -> float:
        if plan not in known:
            known[plan] = float(chosen_on.replay(plan, orders).mean())
        return known[plan]

    best, most = None, 0.0
    for schedule in schedules():
        plans = plans_of(schedule, budgets, rewards.steps)
        if max(plan.started for plan in plans) > pictures:
            continue
        plain = [reward(best_of_plan(budget)) for budget in budgets]
        gain = sum(reward(plan) for plan in plans) / len(plans) - sum(plain) / len(plain)
        if gain > most:
            best, most = schedule, gain
    if best is None:
        return {"at": None, "keep": None, "gain": 0.0, "interval": [0.0, 0.0]}
    gain = _gain(held_out, best, budgets)
    at, keep = best.looks(noise_aware=False)
    return {"at": [*at], "keep": [*keep], "gain": gain.mean, "interval": [gain.low, gain.high]}


def schedules() -> list[Prune]:
    """What `choose_schedule` tries: one to three looks."""
    looks = [some for count in (1, 2, 3) for some in combinations(LOOKS, count)]
    return [*map(Prune, looks), *(Prune(at, keep) for at in LOOKS for keep in KEPT)]


def plans_of(schedule: Prune, budgets: Sequence[int], steps: int) -> list[PruningPlan]:
    """Its plan for each budget."""
    return [schedule.plan(budget, steps, noise_aware=False) for budget in budgets]


def _gain(rewards: PreviewRewards, schedule: Prune, budgets: Sequence[int]) -> Gain:
    orders = rewards.orders()
    gains = [
        rewards.replay(plan, orders) - rewards.replay(best_of_plan(budget), orders)
        for budget, plan in zip(budgets, plans_of(schedule, budgets, rewards.steps), strict=True)
    ]
    return Gain.of(np.mean(gains, axis=(0, 1)))
