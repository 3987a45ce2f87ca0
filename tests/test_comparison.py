"""Arms compared: averages over seeds, duels, hacking gaps, against the same written out."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest

from clipguide.evaluation.comparison import (
    Sample,
    columns_of,
    duels_of,
    hacking_gaps,
    means_of,
)
from clipguide.evaluation.preference import holm, wilcoxon


def samples(prompts: int = 12, seeds: int = 2) -> list[Sample]:
    rng = random.Random(5)
    lift = {"plain": 0.0, "guided": 0.3, "scaled": 0.1}
    return [
        Sample(
            arm, place, seed, f"prompt {place}", "", f"{place}.png",
            {"guide": rng.random() + 2 * lift[arm], "judge": rng.random() + lift[arm]},
        )
        for arm in lift
        for place in range(prompts)
        for seed in range(seeds)
    ]  # fmt: skip


def test_seeds_of_a_prompt_count_once() -> None:
    given = samples()
    columns = columns_of(given)
    for arm in ("plain", "guided", "scaled"):
        for place in range(12):
            own = [s.scores["judge"] for s in given if (s.arm, s.place) == (arm, place)]
            assert len(own) == 2
            assert columns[arm]["judge"][place] == pytest.approx(fmean(own))
    mean = means_of(columns)["guided"]["judge"]
    assert mean.mean == pytest.approx(fmean(columns["guided"]["judge"].values()))
    assert mean.prompts == 12
    assert mean.interval is not None
    assert mean.interval[0] < mean.mean < mean.interval[1]


def test_every_two_arms_by_every_scorer() -> None:
    columns = columns_of(samples())
    duels = duels_of(columns)
    assert [(d.a, d.b, d.scorer) for d in duels] == [
        ("guided", "plain", "guide"), ("guided", "plain", "judge"),
        ("scaled", "plain", "guide"), ("scaled", "plain", "judge"),
        ("scaled", "guided", "guide"), ("scaled", "guided", "judge"),
    ]  # fmt: skip
    p_values: list[float] = []
    for duel in duels:
        x, y = ([*columns[arm][duel.scorer].values()] for arm in (duel.a, duel.b))
        wins = sum((a > b) + 0.5 * (a == b) for a, b in zip(x, y, strict=True))
        assert duel.win_rate == pytest.approx(100 * wins / 12)
        assert duel.difference == pytest.approx(fmean(x) - fmean(y))
        p_values.append(wilcoxon(x, y))
    assert [duel.p_value for duel in duels] == p_values
    assert [duel.p_holm for duel in duels] == holm(p_values)


def test_the_gap_is_how_much_the_guide_flatters() -> None:
    columns = columns_of(samples())
    (gap,) = hacking_gaps(columns, "plain", {"guided": "guide"})
    rates = {
        scorer: 100 * fmean(columns["guided"][scorer][i] > columns["plain"][scorer][i]
                            for i in range(12))
        for scorer in ("guide", "judge")
    }  # fmt: skip
    assert (gap.guiding, gap.judge, gap.baseline) == ("guide", "judge", "plain")
    assert gap.win_guiding == pytest.approx(rates["guide"])
    assert gap.gap == pytest.approx(rates["guide"] - rates["judge"])
    assert gap.interval[0] <= gap.gap <= gap.interval[1]
    assert hacking_gaps(columns, "guided", {"guided": "guide"}) == []


def test_unequal_prompts_and_too_few_are_said() -> None:
    given = samples()
    with pytest.raises(ValueError, match=r"arms 'guided' and 'plain' of unequal prompts.*prompt 3"):
        duels_of(columns_of([s for s in given if (s.arm, s.place) != ("guided", 3)]))
    with pytest.raises(ValueError, match="got 1 prompts in arms 'guided' and 'plain'"):
        duels_of(columns_of(samples(prompts=1)))


def test_a_score_that_is_not_finite_is_an_error() -> None:
    given: list[Any] = samples()
    given[0].scores["guide"] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        duels_of(columns_of(given))
