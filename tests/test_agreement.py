"""Kendall tau-c against scipy, ratings as they lie in the file, agreement as single ratings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from clipguide.data.captions import CaptionError
from clipguide.data.ratings import Rated, read_ratings
from clipguide.evaluation.agreement import agreement
from clipguide.evaluation.kendall import kendall_tau_b, kendall_tau_c

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=2, max_size=120)


@given(PAIRS)
def test_tau_c_is_scipys(pairs: list[tuple[int, int]]) -> None:
    scores, ratings = zip(*pairs, strict=True)
    if len(set(scores)) < 2 or len(set(ratings)) < 2:
        with pytest.raises(ValueError, match="one value throughout"):
            kendall_tau_c(scores, ratings)
        return
    expected = kendalltau(scores, ratings, variant="c").statistic
    assert kendall_tau_c(scores, ratings) == pytest.approx(expected, abs=1e-12)
    expected = kendalltau(scores, ratings, variant="b").statistic
    assert kendall_tau_b(scores, ratings) == pytest.approx(expected, abs=1e-12)


def test_tau_c_is_scipys_on_many_scores_without_ties() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=17_000)
    ratings = np.clip(np.round(scores + random.normal(size=17_000) * 2), 1, 4)
    expected = kendalltau(scores, ratings, variant="c").statistic
    assert kendall_tau_c(scores, ratings) == pytest.approx(expected, abs=1e-12)
    assert kendall_tau_c(ratings, scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "ratings"), [([1.0], [1.0]), ([1, 2], [1, 2, 3]), ([1, float("nan")], [1, 2])]
)
def test_what_has_no_tau_is_refused(scores: list[float], ratings: list[float]) -> None:
    with pytest.raises(ValueError, match="got"):
        kendall_tau_c(scores, ratings)


def files(folder: Path, rows: str, header: str = "image\tcaption_image\tcaption_index") -> Path:
    captions = [
        f"{name}.jpg\t{index}\tcaption {name}{index}" for name in "ab" for index in range(3)
    ]
    (folder / "captions.tsv").write_text("\n".join(["image\tindex\tcaption", *captions]))
    ratings = folder / "ratings.tsv"
    ratings.write_text(f"{header}\trating1\trating2\n{rows}")
    return ratings


def test_own_captions_are_left_out(tmp_path: Path) -> None:
    rows = "a.jpg\tb.jpg\t2\t1\t3\na.jpg\ta.jpg\t0\t4\t4\nb.jpg\ta.jpg\t1\t2\t2\n"
    found, own = read_ratings(files(tmp_path, rows), tmp_path / "captions.tsv")
    assert found == [Rated("a.jpg", "caption b2", (1, 3)), Rated("b.jpg", "caption a1", (2, 2))]
    assert own == 1


@pytest.mark.parametrize(
    ("rows", "header", "word"),
    [
        ("a.jpg\tb.jpg\t3\t1\t3", "image\tcaption_image\tcaption_index", "not in"),
        ("a.jpg\tb.jpg\tx\t1\t3", "image\tcaption_image\tcaption_index", "line 2"),
        ("a.jpg\tb.jpg\t1\t\t3", "image\tcaption_image\tcaption_index", "line 2"),
        ("a.jpg\ta.jpg\t1\t1\t3", "image\tcaption_image\tcaption_index", "no rated pair"),
        ("a.jpg\tb.jpg\t1\t1\t3", "image\tcaption_image\tnumber", "expected image"),
    ],
)
def test_ratings_that_cannot_be_read(tmp_path: Path, rows: str, header: str, word: str) -> None:
    ratings = files(tmp_path, rows, header)
    with pytest.raises(CaptionError, match=word):
        read_ratings(ratings, tmp_path / "captions.tsv")


def test_every_single_rating_counts() -> None:
    random = np.random.default_rng(1)
    ratings = random.integers(1, 5, size=(300, 3))
    scores = ratings.mean(axis=1) + random.normal(size=300)
    names = [str(number // 4) for number in range(300)]
    found = agreement(scores.tolist(), ratings.tolist(), names)
    expected = kendalltau(scores.repeat(3), ratings.reshape(-1), variant="c").statistic
    assert found.tau_c == pytest.approx(100 * expected, abs=1e-9)
    assert found.ratings == 900
    assert found.interval[0] < found.tau_c < found.interval[1] < found.interval[0] + 20
    with pytest.raises(ValueError, match="as many of each"):
        agreement([1.0], [[1]], [])


def test_flickr8k_expert_has_the_published_number_of_ratings(shared_data: Path) -> None:
    folder = shared_data / "flickr8k"
    rated, own = read_ratings(folder / "expert.tsv", folder / "captions.tsv")
    assert sum(len(pair.ratings) for pair in rated) == 16_992
    assert len(rated) + own == 5_822
