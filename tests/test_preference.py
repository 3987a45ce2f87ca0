"""Paired comparison against scipy, every assignment of signs, and simulated nulls."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from clipguide.evaluation.preference import bootstrap_mean, holm, preference, wilcoxon

RANDOM = np.random.default_rng


@pytest.mark.parametrize("count", [5, 30, 150])
def test_wilcoxon_is_scipys(count: int) -> None:
    a, b = RANDOM(count).normal(size=(2, count))
    method = "exact" if count <= 100 else "asymptotic"
    expected = stats.wilcoxon(a, b, method=method, correction=False).pvalue
    assert wilcoxon(a.tolist(), b.tolist()) == pytest.approx(expected, abs=1e-9)


def test_wilcoxon_with_ties_is_over_every_sign() -> None:
    a, b = [3, 1, 4, 1, 5, 9, 2, 6], [1, 2, 2, 1, 7, 6, 3, 3]
    apart = np.array([x - y for x, y in zip(a, b, strict=True) if x != y])
    ranks = stats.rankdata(np.abs(apart))
    seen = abs(ranks[apart > 0].sum() - ranks.sum() / 2)
    drawn = [np.dot(signs, ranks) for signs in product((0, 1), repeat=len(ranks))]
    expected = np.mean([abs(value - ranks.sum() / 2) >= seen - 1e-9 for value in drawn])
    assert wilcoxon(a, b) == pytest.approx(expected, abs=1e-12)
    assert wilcoxon([1, 2], [1, 2]) == 1.0


def test_wins_are_counted() -> None:
    found = preference([1, 2, 3, 4], [0, 2, 5, 1])
    assert (found.pairs, found.wins, found.ties, found.losses) == (4, 2, 1, 1)
    assert found.win_rate == 62.5
    assert found.interval[0] <= 62.5 <= found.interval[1]


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="p-value nan"):
        holm([math.nan])


def test_a_thousand_nulls_are_covered_and_rejected_as_often_as_they_say() -> None:
    """40 pairs without a difference: 95 % of intervals hold 50 %, 5 % of tests reject."""
    random = RANDOM(0)
    covered = rejected = mean_covered = 0
    for trial in range(1000):
        a, b = random.normal(size=(2, 40))
        found = preference(a.tolist(), b.tolist(), samples=200, seed=trial)
        covered += found.interval[0] <= 50 <= found.interval[1]
        rejected += found.p_value < 0.05
        low, high = bootstrap_mean(a - b, samples=200, seed=trial)
        mean_covered += low <= 0 <= high
    assert 930 <= covered <= 970
    assert 930 <= mean_covered <= 970
    assert 30 <= rejected <= 70


def test_what_is_no_comparison_is_said() -> None:
    with pytest.raises(ValueError, match="got 2 and 1 scores"):
        preference([1, 2], [1])
    with pytest.raises(ValueError, match="got 1 pairs, expected at least 2"):
        preference([1], [1])
    with pytest.raises(ValueError, match="score nan of picture 1 of b"):
        preference([1, 2], [1, math.nan])
