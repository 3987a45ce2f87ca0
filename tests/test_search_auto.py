"""The table of `auto`: what it says is what a replay finds, and what a search does by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from tiny_search import pipeline, run

from clipguide.search.auto import FEW_CALLS, TABLE, make_table, method_for
from clipguide.search.preview_rewards import PreviewRewards, load_preview_rewards
from clipguide.search.pruning_replay import compare_default

Cli = Callable[..., Outcome]


def recorded(noise: float, *, aware: bool) -> PreviewRewards:
    rng = np.random.default_rng(0)
    final = rng.normal(size=(12, 40, 1))
    late = np.linspace(1, 0, 10)
    return PreviewRewards(final + noise * late * rng.normal(size=(12, 40, 10)), aware)


def test_prune_where_it_gains_beyond_chance() -> None:
    telling, mute = recorded(0.1, aware=True), recorded(50.0, aware=False)
    rows = make_table([telling, mute], [4, 8])
    assert [(r["scorer"], r["budget"], r["method"]) for r in rows] == [
        ("frozen", 4, "best_of"), ("frozen", 8, "best_of"),
        ("noise_aware", 4, "prune"), ("noise_aware", 8, "prune"),
    ]  # fmt: skip
    expected = compare_default(telling, [4])["4"]
    assert rows[2]["gain"] == pytest.approx(expected["gain"], abs=1e-3)
    assert rows[2]["interval"] == pytest.approx(expected["interval"], abs=1e-3)
    both = make_table([telling, telling], [4])[0]  # twice the prompts: the same mean, less doubt
    assert both["gain"] == rows[2]["gain"]
    width = np.diff(both["interval"]) / np.diff(rows[2]["interval"])
    assert float(width[0]) == pytest.approx(0.5**0.5, abs=0.05)


def test_the_shipped_table_is_what_the_command_prints(cli: Cli, shared_data: Path) -> None:
    files = [shared_data / "preview_rewards" / f"sdxl_{name}.npz" for name in ("hps", "imr", "pic")]
    if not all(file.is_file() for file in files):
        pytest.skip("no published rewards")
    done = cli("bench", "auto", *(x for file in files for x in ("--replay", file)), "--json")
    assert done.code == 0, done.err
    assert done.data == json.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("aware", [False, True])
def test_the_row_below_the_budget_counts(aware: bool) -> None:
    kind = "noise_aware" if aware else "frozen"
    rows = [r for r in json.loads(TABLE.read_text())["rows"] if r["scorer"] == kind]
    for row in rows:
        for budget in (row["budget"], row["budget"] + 1):
            assert method_for(20, budget, noise_aware=aware) == row["method"]
    assert method_for(20, 1, noise_aware=aware) == "best_of"
    assert method_for(20, 1000, noise_aware=aware) == rows[-1]["method"]
    assert method_for(FEW_CALLS - 1, 16, noise_aware=aware) == "best_of"


def test_a_search_does_what_the_table_says() -> None:
    for steps in (4, 10):
        chosen = method_for(steps, 4, noise_aware=False)
        found, expected = (
            run(pipeline(), method, budget=4, num_inference_steps=steps)
            for method in ("auto", chosen)
        )
        assert [(c.seed, c.score) for c in found] == [(c.seed, c.score) for c in expected]
    assert method_for(10, 4, noise_aware=False) == "prune"


def test_a_file_of_one_array_is_a_kind_alone(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", frozen=recorded(0.1, aware=False).values)
    done = cli("bench", "auto", "--replay", tmp_path / "own.npz", "--budget", 4)
    assert done.code == 0
    assert [line.split()[0] for line in done.out.splitlines()[2:]] == ["frozen"]
    assert load_preview_rewards(tmp_path / "own.npz").steps == 10
    assert cli("bench", "auto", "--replay", tmp_path / "no.npz").code == 2
