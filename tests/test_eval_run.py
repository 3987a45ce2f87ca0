"""`clipguide eval run`: designs, arms that fail, resuming, foreign folders, the page as text."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clipguide.generation.experiment import EQUAL, MATCHED, experiment_of, read_experiment

DESIGN = """
prompts = ["a red star left of a blue ring", "a green cross above a yellow circle"]
judges = ["starter:judge"]
[defaults]
steps = 3
[arms.unguided]
search = "none"
guidance = { strength = 0.0 }
[arms.guided]
search = "none"
[arms.broken]
search = "svdd"
"""


def table(**changes: Any) -> dict[str, Any]:
    arms = {"plain": {"search": "none", "guidance": {"strength": 0}}, "own": {"search": "none"}}
    return {"prompts": ["a star"], "judges": ["starter:judge"], "arms": arms} | changes


def test_guided_arms_have_their_controls() -> None:
    design = experiment_of(table(), Path())
    assert [(arm.name, arm.control) for arm in design.arms] == [
        ("plain", None),
        ("own", None),
        ("own, matched scale", (MATCHED, "own")),
        ("own, equal calls", (EQUAL, "own")),
    ]
    assert design.arms[1].guiding == "starter"  # the teacher of starter:latent scores pictures
    assert design.scorers == ["starter", "starter:judge"]
    assert design.judging.headline == "starter:judge"
    assert design.warnings == []
    assert len(experiment_of(table(controls=False), Path()).arms) == 2
    assert [a.name for a in experiment_of(table(controls=[EQUAL]), Path()).arms] == [
        "plain", "own", "own, equal calls",
    ]  # fmt: skip
    arms = {"a": {"search": "none", "controls": [MATCHED]}, "b": {"controls": False}, "c": {}}
    assert [a.name for a in experiment_of(table(arms=arms), Path()).arms] == [
        "a", "a, matched scale", "b", "c", "c, matched scale", "c, equal calls",
    ]  # fmt: skip
    warned = experiment_of(table(headline="starter"), Path()).warnings
    assert "the headline is starter, which guided own" in warned[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"judges": []}, "expected the guiding scorer and at least one other"),
        ({"arms": {}}, "got no arms"),
        ({"arms": {" ": {}}}, "got an arm without a name"),
        ({"arms": {"a": {"steps": 0}}}, "arm 'a': got steps 0"),
        ({"arms": {"a": {"scorer": "vqa:x"}}}, "arm 'a': got scorer vqa:x, expected a CLIP"),
        ({"arms": {"a": {"folder": "none"}}}, "arm 'a': got no folder none"),
        ({"arms": {"a": {"folder": ".", "steps": 3}}}, "got folder and settings"),
        ({"prompts": []}, "got prompts"),
        ({"prompts": [" "]}, "got an empty prompt"),
        ({"headline": "clip"}, "got headline 'clip', expected one of starter"),
        ({"baseline": "none"}, "got baseline 'none', expected one of plain"),
        ({"num": 0}, "got num 0, expected a whole number, 1 or more"),
        ({"prompts": ["a", 3]}, "got prompt 3, expected a text"),
        ({"controls": "no"}, "got controls 'no', expected true, false, or a list of"),
        ({"controls": ["equal"]}, r"got controls \['equal'\], expected true, false, or a list"),
        ({"arms": {"a": {}, "a, equal calls": {}}}, "got arm 'a, equal calls' twice"),
        ({"promts": []}, "got 'promts', expected one of prompts"),
    ],
)
def test_designs_that_are_not_right(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        experiment_of(table(**changes), Path())
    assert "\n" not in str(caught.value)


def test_a_file_of_a_design_is_named(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text(DESIGN.replace("judges", "judge"))
    with pytest.raises(ValueError, match=r"e.toml: got 'judge', expected one of"):
        read_experiment(tmp_path / "e.toml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, starter_assets: Path) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "e.toml").write_text(DESIGN)
    done = subprocess.run(
        command(folder / "e.toml", folder / "run"), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def command(design: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "clipguide", "eval", "run", str(design), "--out", str(out)]


def test_an_arm_that_fails_is_reported_and_the_others_finish(finished: Path) -> None:
    run = finished / "run"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["arms"]["broken"]["error"].startswith("DeterministicScheduler: ")
    assert summary["arms"]["broken"]["means"] == {}
    assert any(line.startswith("arm broken failed") for line in summary["warnings"])
    good = [name for name, arm in summary["arms"].items() if arm["error"] is None]
    assert good == ["unguided", "guided", "guided, matched scale", "guided, equal calls"]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 2 * len(good)
    for sample in samples:
        assert set(sample["scores"]) == {"starter", "starter:judge", "oracle"}
        assert (run / sample["file"]).is_file()
    assert summary["arms"]["unguided"]["calls"] == 2 * 3  # steps, both halves
    plain = [s["scores"] for s in samples if s["arm"] == "unguided"]
    equal = [s["scores"] for s in samples if s["arm"] == "guided, equal calls"]
    assert plain == equal  # gradients on latents cost no call: best of one
    assert len(summary["duels"]) == 6 * 3
    assert {gap["arm"] for gap in summary["hacking"]} >= {"guided"}
    measured = {name: arm["measured"] for name, arm in summary["arms"].items()}
    assert measured["guided, matched scale"]["cfg_scale"] > 3.0
    assert measured["guided, equal calls"] == {"budget": 1}
    assert measured["guided"] == {}
    assert summary["arms"]["guided, matched scale"]["guiding"] is None


def test_the_tables_hold_the_samples(finished: Path) -> None:
    run = finished / "run"
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    flat = [{k: v for k, v in row.items() if k != "scores"} | row["scores"] for row in samples]
    with (run / "samples.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert rows == [{name: str(value) for name, value in row.items()} for row in flat]
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(run / "samples.parquet").to_pylist() == flat


@pytest.mark.slow
def test_killed_and_gone_on_with_is_the_same_to_the_bit(finished: Path, tmp_path: Path) -> None:
    out, made = tmp_path / "run", dict[str, int]()
    for pictures in (1, 4):  # killed when so many are there
        running = subprocess.Popen(
            command(finished / "e.toml", out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while running.poll() is None and len([*out.glob("arms/*/*.png")]) < pictures:
            time.sleep(0.02)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        for file in out.glob("arms/*/[0-9]*.png"):
            assert made.setdefault(file.name + file.parent.name, file.stat().st_mtime_ns) == (
                file.stat().st_mtime_ns
            )
    done = subprocess.run(command(finished / "e.toml", out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for file in out.glob("arms/*/[0-9]*.png"):
        known = made.get(file.name + file.parent.name, file.stat().st_mtime_ns)
        assert known == file.stat().st_mtime_ns  # none was made twice
    whole = finished / "run"
    assert (out / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


def test_another_experiment_does_not_go_into_the_folder(finished: Path, cli: Any) -> None:
    (finished / "other.toml").write_text(DESIGN.replace("steps = 3", "steps = 4"))
    found = cli("eval", "run", finished / "other.toml", "--out", finished / "run")
    assert found.code == 2
    assert "holds another experiment, expected a new folder (--out)" in found.err


@pytest.mark.parametrize(
    ("judge", "reason"),
    [("nobody", "got scorer 'nobody'"), ("starter:latent", "which reads latents")],
)
def test_a_judge_that_cannot_judge_is_told_before_anything_is_made(
    tmp_path: Path, cli: Any, judge: str, reason: str
) -> None:
    (tmp_path / "e.toml").write_text(DESIGN.replace("starter:judge", judge))
    found = cli("eval", "run", tmp_path / "e.toml", "--out", tmp_path / "run")
    assert (found.code, len(found.err.splitlines())) == (2, 1), found.err
    assert reason in found.err
    assert not (tmp_path / "run").exists()
