"""Pruned search replayed on recorded rewards, against a replay written out sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from clipguide.search import Prune
from clipguide.search.preview_rewards import PreviewRewards, load_preview_rewards
from clipguide.search.pruning_plan import PruningPlan
from clipguide.search.pruning_replay import choose_schedule, compare_default

PROMPTS, PICTURES, STEPS = 5, 12, 10


def rewards_of(seed: int = 0, noise: float = 1.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Previews that tell more of the end the later they are."""
    rng = np.random.default_rng(seed)
    final = rng.normal(size=(PROMPTS, PICTURES, 1)) * 3 + 7
    late = np.linspace(1, 0, STEPS)
    return final + noise * late * rng.normal(size=(PROMPTS, PICTURES, STEPS))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.npz"
    np.savez(path, frozen=rewards_of(0), noise_aware=rewards_of(1, 0.3))
    return path


def replayed_slowly(values: Any, plan: PruningPlan, order: list[int]) -> float:
    """One prompt (pictures, T), one order: a loop over looks and samples."""
    alive = order[: plan.counts[0]]
    for calls, kept in zip(plan.calls, plan.counts[1:], strict=True):
        ranked = sorted(
            alive, key=lambda picture: (-values[picture][calls - 1], alive.index(picture))
        )
        alive = ranked[:kept]
    final = [row[-1] for row in values]
    mean = sum(final) / len(final)
    spread = (sum((x - mean) ** 2 for x in final) / len(final)) ** 0.5
    return max((final[picture] - mean) / spread for picture in alive)


@pytest.mark.parametrize("plan", [
    PruningPlan((), (3,)), PruningPlan((5,), (6, 2)), PruningPlan((2, 4, 7), (12, 8, 5, 1)),
])  # fmt: skip
def test_a_replay_equals_one_written_out(plan: PruningPlan) -> None:
    rewards = PreviewRewards(rewards_of(), noise_aware=False)
    orders = rewards.orders(seed=3, count=4)
    found = rewards.replay(plan, orders)
    for i, j in np.ndindex(4, PROMPTS):
        slow = replayed_slowly(rewards.values[j].tolist(), plan, orders[i, j].tolist())
        assert found[i, j] == pytest.approx(slow, abs=1e-12)


def test_by_hand() -> None:
    """Of pictures that end at 0, 1, 2, 3 the look keeps the two that looked best: 0 and 2."""
    values = np.array([[[9.0, 0.0], [1.0, 1.0], [8.0, 2.0], [2.0, 3.0]]])
    rewards = PreviewRewards(values, noise_aware=False)
    order = np.array([[[0, 1, 2, 3]]])
    deviation = 1.25**0.5
    assert rewards.replay(PruningPlan((1,), (4, 2)), order)[0, 0] == pytest.approx(0.5 / deviation)
    assert rewards.replay(PruningPlan((), (2,)), order)[0, 0] == pytest.approx(-0.5 / deviation)


def test_pictures_that_are_all_alike_deviate_by_nothing() -> None:
    rewards = PreviewRewards(np.ones((1, 4, 3)), noise_aware=False)
    assert rewards.replay(PruningPlan((1,), (3, 1)), rewards.orders()).tolist() == [[0.0]] * 24


def test_the_orders_are_permutations_and_differ() -> None:
    orders = PreviewRewards(rewards_of(), noise_aware=False).orders()
    assert orders.shape == (24, PROMPTS, PICTURES)
    assert (np.sort(orders, axis=2) == np.arange(PICTURES)).all()
    assert len({tuple(row) for row in orders.reshape(-1, PICTURES).tolist()}) == 24 * PROMPTS


@pytest.mark.parametrize("aware", [False, True])
def test_the_command_prints_what_the_slow_replay_finds(
    cli: Callable[..., Any], file: Path, aware: bool
) -> None:
    array = "noise_aware" if aware else "frozen"
    arguments = ("bench", "prune", "--replay", file, "--array", array, "--budget", 2, "--budget", 4)
    done = cli(*arguments, "--json")
    assert (done.code, done.err) == (0, "")
    rewards = load_preview_rewards(file, array)
    orders = rewards.orders()
    expected: dict[str, Any] = {}
    for budget in (2, 4):
        plans = {
            "best_of": PruningPlan((), (budget,)),
            "default": Prune().plan(budget, STEPS, noise_aware=aware),
        }
        expected[str(budget)] = {
            name: pytest.approx(
                np.mean([
                    replayed_slowly(rewards.values[j].tolist(), plan, orders[i, j].tolist())
                    for i, j in np.ndindex(24, PROMPTS)
                ])
            )
            for name, plan in plans.items()
        }  # fmt: skip
    assert done.data == {"budgets": expected}
    table = cli(*arguments).out.splitlines()
    assert len(table) == 4
    assert table[0].split()[:4] == ["budget", "best_of", "default", "gain"]


def test_the_default_of_a_scorer_depends_on_what_it_was_made_for() -> None:
    values = rewards_of(1, 0.3)
    frozen, aware = (compare_default(PreviewRewards(values, a), [4])["4"] for a in (False, True))
    assert frozen["best_of"] == aware["best_of"]
    assert frozen["looks"] == [5]
    assert aware["looks"] == [2, 3, 5]


def test_a_schedule_is_chosen_that_gains_where_previews_tell_the_end(file: Path) -> None:
    told = np.repeat(rewards_of()[:, :, -1:], STEPS, axis=2)
    chosen = choose_schedule(PreviewRewards(told, noise_aware=True), [2])
    assert chosen["gain"] > 0.3
    opposite = np.concatenate([-told[:, :, 1:], told[:, :, :1]], axis=2)
    assert choose_schedule(PreviewRewards(opposite, noise_aware=True), [2])["at"] is None
    with pytest.raises(ValueError, match="got 3 prompts, expected at least 4"):
        choose_schedule(PreviewRewards(told[:3], noise_aware=True), [2])


def broken(folder: Path, kind: str) -> Path:
    """A file that is not what is asked for."""
    path = folder / f"{kind}.npz"
    values = rewards_of()
    if kind == "text":
        path.write_text("no archive")
    elif kind == "pickle":
        np.savez(path, frozen=np.array([[{}]], dtype=object))
    elif kind == "nan":
        values[1, 2, 3] = np.nan
        np.savez(path, frozen=values)
    elif kind == "flat":
        np.savez(path, frozen=values[0])
    elif kind == "other":
        np.savez(path, rewards=values)
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, values)
    elif kind == "words":
        np.savez(path, frozen=np.array([[["a", "b"]]]))
    elif kind == "complex":
        np.savez(path, frozen=values * 1j)
    elif kind in ("locked", "squeezed", "vast"):
        np.savez_compressed(path, frozen=values)
        data = bytearray(path.read_bytes())
        first, listed = data.index(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
        for start in (first + 6, listed + 8):  # flags, then the compression's number
            data[start] |= kind == "locked"
            data[start + 2] = 99 if kind == "squeezed" else data[start + 2]
        if kind == "vast":
            path.unlink()
            header = b"\x93NUMPY\x01\x00v\x00" + str(
                {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9, 10**9)}
            ).encode().ljust(117) + b"\n"  # fmt: skip
            with ZipFile(path, "w") as archive:
                archive.writestr("frozen.npy", header)
        else:
            path.write_bytes(data)
    elif kind == "cut":
        np.savez(path, frozen=values)
        path.write_bytes(path.read_bytes()[:-200])
    return path


@pytest.mark.parametrize(("kind", "message"), [
    ("missing", "missing.npz: cannot be read as an npz file"),
    ("text", "text.npz: cannot be read as an npz file"),
    ("pickle", "pickle.npz: cannot be read as an npz file"),
    ("cut", "cut.npz: cannot be read as an npz file"),
    ("array", "array.npz: cannot be read as an npz file (no archive of named arrays)"),
    ("locked", "locked.npz: cannot be read as an npz file"),
    ("squeezed", "squeezed.npz: cannot be read as an npz file"),
    ("vast", "vast.npz: cannot be read as an npz file"),
    ("words", "words.npz: got frozen of type <U1, expected numbers"),
    ("complex", "complex.npz: got frozen of type complex128, expected numbers"),
    ("other", "got arrays [], expected 'frozen' among them"),
    ("flat", "got frozen of shape (12, 10), expected (P, M, T), T > 1"),
    ("nan", "got frozen[1, 2, 3] not finite, expected finite rewards"),
])  # fmt: skip
def test_files_that_are_refused(
    cli: Callable[..., Any], tmp_path: Path, kind: str, message: str
) -> None:
    done = cli("bench", "prune", "--replay", broken(tmp_path, kind), "--array", "frozen", "--json")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (("--array", "frozn"), "got --array 'frozn', expected frozen or noise_aware"),
    ((), "expected one to be named"),
    (("--array", "frozen", "--budget", 13), "got 12 pictures of each prompt, expected at least"),
    (("--array", "frozen", "--budget", 0), "--budget"),
])  # fmt: skip
def test_arguments_that_are_refused(
    cli: Callable[..., Any], file: Path, arguments: tuple[Any, ...], message: str
) -> None:
    done = cli("bench", "prune", "--replay", file, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_the_published_rewards(cli: Callable[..., Any], shared_data: Path) -> None:
    """best_of as published; the default never loses by more than .01."""
    path = shared_data / "preview_rewards" / "sdxl_hps.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    rows = cli("bench", "prune", "--replay", path, "--array", "frozen", "--json").data["budgets"]
    assert [*rows] == ["2", "4", "8", "16"]
    assert rows["2"]["best_of"] == pytest.approx(0.569, abs=5e-4)
    assert all(row["default"] - row["best_of"] > -0.01 for row in rows.values())
