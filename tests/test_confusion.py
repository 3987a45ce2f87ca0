"""Confusion, calibration error and fitted scale against slow versions and scipy."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from clipguide.evaluation.confusion import (
    confusion_matrix,
    expected_calibration_error,
    fit_scale,
    most_confused,
)

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_confusion_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = torch.tensor(pairs).T
    matrix = confusion_matrix(truth, predicted, 4)
    counts = Counter(pairs)
    assert all(int(matrix[i, j]) == counts[i, j] for i in range(4) for j in range(4))
    wrong = [(n, i, j) for (i, j), n in counts.items() if i != j]
    found = most_confused(matrix, "abcd", top_k=16)
    expected = sorted(wrong, key=lambda row: (-row[0], row[1], row[2]))
    assert [(p.count, "abcd".index(p.truth), "abcd".index(p.taken_for)) for p in found] == expected
    for pair in found:
        total = sum(n for (i, _), n in counts.items() if "abcd"[i] == pair.truth)
        assert pair.share == pair.count / total


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50))
def test_calibration_error_is_the_sum_over_bins(samples: list[tuple[float, bool]]) -> None:
    error = 0.0
    for number in range(10):
        inside = [s for s in samples if min(int(s[0] * 10), 9) == number]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            error += len(inside) / len(samples) * abs(confidence - accuracy)
    chances, right = zip(*samples, strict=True)
    found = expected_calibration_error(
        torch.tensor(chances, dtype=torch.float64), torch.tensor(right)
    )
    assert found == pytest.approx(error, abs=1e-9)


@given(st.integers(0, 500))
def test_the_scale_is_the_likeliest(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    cosines = torch.randn(60, 4, generator=random, dtype=torch.float64) * 0.1
    truth = torch.multinomial((12 * cosines).softmax(dim=1), 1, generator=random)[:, 0]

    def loss(scale: float) -> float:
        chances = (scale * cosines).softmax(dim=1)
        return -float(chances[torch.arange(60), truth].log().mean())

    best = minimize_scalar(loss, bounds=(0.01, 1000), method="bounded", options={"xatol": 1e-9}).x
    assert loss(fit_scale(cosines, truth)) <= loss(best) + 1e-9


def test_what_makes_no_sense_is_refused() -> None:
    one = torch.tensor([1])
    with pytest.raises(ValueError, match="outside"):
        confusion_matrix(one, torch.tensor([4]), 4)
    with pytest.raises(ValueError, match="same"):
        confusion_matrix(one, torch.tensor([1, 2]), 4)
    with pytest.raises(ValueError, match="outside"):
        expected_calibration_error(torch.tensor([1.5]), torch.tensor([True]))
    with pytest.raises(ValueError, match="N >= 1"):
        expected_calibration_error(torch.tensor([]), torch.tensor([]))
    with pytest.raises(ValueError, match="expected"):
        fit_scale(torch.zeros(2, 3), one)
