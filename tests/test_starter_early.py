"""How often scores of unfinished pictures order right and wrong ones, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.starter.early import CALLS, shares, watched
from training.starter.measure import open_bench


def test_shares_of_pairs_are_areas_under_the_curve() -> None:
    random = np.random.default_rng(3)
    scores = random.integers(0, 5, (6, 8)) + np.arange(6.0)[:, None]
    right = (random.random((6, 8)) < 0.5).astype(float)
    of_all, of_one = shares(scores, right)
    assert of_all == pytest.approx(100 * roc_auc_score(right.ravel(), scores.ravel()))
    pairs = [row.sum() * (8 - row.sum()) for row in right]
    own = [roc_auc_score(r, s) for r, s in zip(right, scores, strict=True)]
    assert of_one == pytest.approx(100 * np.average(own, weights=pairs))


def test_a_row_is_asked_of_every_picture_after_every_count_of_calls() -> None:
    bench = open_bench(3, CALLS[-1], 2)
    known = watched(bench, 2)
    assert known.right.shape == (3, 2)
    assert {values.shape for values in known.said.values()} == {(len(CALLS), 3, 2)}
    for values in known.said.values():
        assert np.isfinite(values).all()
        assert len(np.unique(values)) == values.size  # each picture's and call's own
