"""`score` on captions: what counts, and two folders against each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image
from scipy import stats

from clipguide.evaluation.paired import paired_difference, t_quantile

Cli = Callable[..., Outcome]


def draw(folder: Path, names: list[str], seed: int) -> Path:
    random = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(folder / name)
    return folder


def test_the_quantile_is_scipys() -> None:
    for freedom in (1, 2, 3, 4, 7, 30, 199, 200):
        for confidence in (0.5, 0.95, 0.999):
            expected = stats.t.ppf(0.5 + confidence / 2, freedom)
            assert t_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)


def test_the_interval_is_scipys() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=9), random.normal(0.3, 2, size=9)
    found = paired_difference(a.tolist(), b.tolist())
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert paired_difference([1.0], [3.0]).interval is None


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [float("nan")])])
def test_scores_that_are_no_pairs_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="got"):
        paired_difference(a, b)


def scores(cli: Cli, tiny_models: Path, file: Path, text: str) -> float:
    done = cli("score", file, "--prompt", text, "--scorer", tiny_models / "clip", "--json")
    return done.data["mean"]


def test_two_folders_on_one_captions_file(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    names = ["a.png", "s/a.png", "b.png", "c.png"]
    a = draw(tmp_path / "a", names, 0)
    b = draw(tmp_path / "b", [*names[:3], "d.png"], 1)
    rows = {"a.png": ["a fox", "a dog"], "s/a.png": "a cat", "b.png": "a cow", "c.png": "x"}
    rows["d.png"] = "y"
    (tmp_path / "c.json").write_text(json.dumps(rows))
    base = ["score", a, "--against", b, "--captions", tmp_path / "c.json"]
    done = cli(*base, "--scorer", tiny_models / "clip", "--json")
    assert done.code == 0, done.err

    def mean(folder: Path, name: str) -> float:
        texts = rows[name] if isinstance(rows[name], list) else [rows[name]]
        return float(np.mean([scores(cli, tiny_models, folder / name, text) for text in texts]))

    means = np.array([[mean(folder, name) for name in names[:3]] for folder in (a, b)])
    data: dict[str, Any] = done.data
    assert [data["mean_a"], data["mean_b"]] == pytest.approx(means.mean(axis=1), abs=1e-6)
    assert data["difference"] == pytest.approx(means[0].mean() - means[1].mean(), abs=1e-6)
    interval = stats.ttest_rel(*means).confidence_interval(0.95)
    assert data["interval"] == pytest.approx([interval.low, interval.high], abs=1e-5)
    assert (data["pairs"], data["left_out"], len(data["results"])) == (3, 2, 4)
    assert "2 images with a caption are on one side only" in done.err
    shown = cli(*base, "--scorer", tiny_models / "clip").out
    assert f"A - B: {data['difference']:+.4f}, 95% interval" in shown
    assert "(3 pairs, cosine" in shown
    (tmp_path / "one.json").write_text(json.dumps({"c.png": "x", "d.png": "y"}))
    none = cli(*base[:-1], tmp_path / "one.json", "--scorer", tiny_models / "clip")
    assert (none.code, "no image that it names is on both sides" in none.err) == (2, True)


def test_against_needs_captions(cli: Cli, tmp_path: Path) -> None:
    done = cli("score", tmp_path, "--against", tmp_path, "--prompt", "x")
    assert (done.code, "--captions FILE" in done.err) == (2, True)
    done = cli("score", tmp_path, "--prompt", "x", "--image-column", "u")
    assert (done.code, "expected --captions" in done.err) == (2, True)


def test_repeated_rows_do_not_change_the_mean(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    folder = draw(tmp_path / "a", ["a.png", "s/a.png"], 2)
    base = ["score", folder, "--scorer", tiny_models / "clip", "--json", "--captions"]
    rows = "a.png,x\ns/a.png,y\n"
    (tmp_path / "c.csv").write_text(f"u,v\n{rows}")
    (tmp_path / "twice.csv").write_text(f"u,v\n{rows}./a.png,x\na.png,x\n")
    columns = ["--image-column", "u", "--caption-column", "v"]
    once = cli(*base, tmp_path / "c.csv", *columns).data
    done = cli(*base, tmp_path / "twice.csv", *columns)
    assert done.data["mean"] == once["mean"]
    assert [row["text"] for row in done.data["results"]] == ["x", "y"]
    assert done.data["captions"] == once["captions"] | {"repeated": 2}
    assert "2 rows" in done.err
    assert "counted once" in done.err
