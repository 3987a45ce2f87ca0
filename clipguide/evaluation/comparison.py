"""Arms of one experiment against each other, on pictures of the same prompts and seeds.

A score counts once per prompt: several seeds of a prompt are averaged first, since they are not
independent. Every pair of arms is compared by every scorer; p-values are Holm's over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from clipguide.evaluation.paired import paired_difference
from clipguide.evaluation.preference import bootstrap_mean, holm, preference

ORACLE = "oracle"
"""The column of the oracle's yes (1) and no (0), beside those of the scorers."""


@dataclass(frozen=True)
class Sample:
    """One picture and what is known of it.

    Attributes:
        arm: its setting's name.
        place: of its prompt in the experiment, from 0.
        seed: that was asked for; a search may return another seed's picture.
        prompt, category: the text, and its kind where the prompts have any.
        file: relative to the run's folder, or absolute for pictures made elsewhere.
        scores: scorer -> number; `ORACLE` among them where it can say.
        seconds, calls: what it took, of a picture made here; calls of the denoiser.
    """

    arm: str
    place: int
    seed: int
    prompt: str
    category: str
    file: str
    scores: dict[str, float]
    seconds: float | None = None
    calls: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Mean:
    """Of an arm's prompts, with a 95 % interval (None for a single prompt)."""

    mean: float
    interval: tuple[float, float] | None
    prompts: int


@dataclass(frozen=True)
class Duel:
    """Arm a against arm b by one scorer.

    Attributes:
        a, b, scorer: which.
        prompts: that both have.
        win_rate: of a in percent, a tie half a win; with its 95 % interval.
        difference: of the means, a - b, with Student's 95 % interval.
        p_value, p_holm: of Wilcoxon's test, and corrected for all duels of the experiment.
    """

    a: str
    b: str
    scorer: str
    prompts: int
    win_rate: float
    win_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float] | None
    p_value: float
    p_holm: float


@dataclass(frozen=True)
class HackingGap:
    """How much more often an arm wins by the scorer that guided it than by another judge.

    `gap`: the difference of the two win rates against the baseline, in points; above 0 the guiding
    scorer flatters. `interval` of 95 %, over prompts.
    """

    arm: str
    baseline: str
    guiding: str
    judge: str
    win_guiding: float
    win_judge: float
    gap: float
    interval: tuple[float, float]


Columns = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Arm -> scorer -> place of a prompt -> mean over its seeds."""


def columns_of(samples: Sequence[Sample]) -> dict[str, dict[str, dict[int, float]]]:
    """The scores of the samples, averaged over seeds.

    Example:
        >>> a = Sample("a", 0, 0, "a star", "", "0.png", {"clip": 0.5})
        >>> columns_of([a])
        {'a': {'clip': {0: 0.5}}}
    """
    values: dict[str, dict[str, dict[int, list[float]]]] = {}
    for sample in samples:
        arm = values.setdefault(sample.arm, {})
        for scorer, score in sample.scores.items():
            arm.setdefault(scorer, {}).setdefault(sample.place, []).append(score)
    return {
        arm: {
            scorer: {place: fmean(some) for place, some in sorted(prompts.items())}
            for scorer, prompts in scorers.items()
        }
        for arm, scorers in values.items()
    }


def means_of(columns: Columns) -> dict[str, dict[str, Mean]]:
    """The mean of every arm by every scorer."""
    return {
        arm: {scorer: _mean([*prompts.values()]) for scorer, prompts in scorers.items()}
        for arm, scorers in columns.items()
    }


def _mean(values: list[float]) -> Mean:
    interval = bootstrap_mean(values) if len(values) > 1 else None
    return Mean(fmean(values), interval, len(values))


def duels_of(columns: Columns) -> list[Duel]:
    """Every two arms by every scorer that both have, the later arm first.

    Raises:
        ValueError: arms of unequal prompts, or of fewer than two (which).
    """
    found: list[tuple[str, str, str, list[float], list[float]]] = []
    for b, a in combinations(columns, 2):
        for scorer in columns[a]:
            if scorer in columns[b]:
                found.append((a, b, scorer, *_paired(columns, a, b, scorer)))
    preferences = [preference(x, y) for *_, x, y in found]
    corrected = holm([p.p_value for p in preferences])
    duels: list[Duel] = []
    for (a, b, scorer, x, y), won, p_holm in zip(found, preferences, corrected, strict=True):
        apart = paired_difference(x, y)
        duels.append(
            Duel(
                a, b, scorer, won.pairs, won.win_rate, won.interval, apart.difference,
                apart.interval, won.p_value, p_holm,
            )
        )  # fmt: skip
    return duels


def _paired(columns: Columns, a: str, b: str, scorer: str) -> tuple[list[float], list[float]]:
    ours, theirs = columns[a][scorer], columns[b][scorer]
    if ours.keys() != theirs.keys():
        alone = sorted(ours.keys() ^ theirs.keys())
        raise ValueError(
            f"got arms {a!r} and {b!r} of unequal prompts, expected the same: prompt {alone[0]} "
            f"has a score by {scorer} in one of them alone"
        )
    if len(ours) < 2:
        raise ValueError(
            f"got {len(ours)} prompts in arms {a!r} and {b!r}, expected at least 2 to compare them"
        )
    return [*ours.values()], [theirs[place] for place in ours]


def hacking_gaps(columns: Columns, baseline: str, guiding: Mapping[str, str]) -> list[HackingGap]:
    """Of every arm that a scorer guided, against every judge that did not.

    Args:
        columns: see `columns_of`.
        baseline: the arm that wins are counted against.
        guiding: arm -> the scorer of pictures by which it was guided.
    """
    found: list[HackingGap] = []
    for arm, own in guiding.items():
        if arm == baseline or arm not in columns or baseline not in columns:
            continue
        for judge in columns[arm]:
            if judge in guiding.values() or judge not in columns[baseline]:
                continue
            if own in columns[arm] and own in columns[baseline]:
                found.append(_gap(columns, arm, baseline, own, judge))
    return found


def _gap(columns: Columns, arm: str, baseline: str, own: str, judge: str) -> HackingGap:
    shares = [
        [(x > y) - (x < y) for x, y in zip(*_paired(columns, arm, baseline, s), strict=True)]
        for s in (own, judge)
    ]
    wins = [50 * (1 + fmean(some)) for some in shares]
    apart = [50.0 * (x - y) for x, y in zip(*shares, strict=True)]
    low, high = bootstrap_mean(apart)
    return HackingGap(arm, baseline, own, judge, wins[0], wins[1], fmean(apart), (low, high))
