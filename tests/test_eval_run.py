"""`clipguide eval run`: designs, arms that fail, resuming, foreign folders, the page as text."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipguide.data.scenes import render, sample_scene
from clipguide.generation.experiment import EQUAL, MATCHED, experiment_of, read_experiment
from clipguide.report.metadata import save_png

HOSTILE = (
    '<script>document.title="no"</script>', "</script><img src=x onerror=alert(1)>", "a, b\nc",
    "שלום \u202e right to left", "' \" & \\ ${x} {{x}} <!-- -->",
)  # fmt: skip
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


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., list[str]]:
    """Two folders of pictures that say their prompts, as arguments of the command."""

    def make(prompts: tuple[str, ...] = HOSTILE, *, say: bool = True) -> list[str]:
        for number, name in enumerate("ab"):
            (tmp_path / name).mkdir(exist_ok=True)
            for place, prompt in enumerate(prompts):
                image = render(sample_scene(10 * number + place)).resize((64, 64))
                record = {"prompt": prompt} if say else None
                save_png(image, tmp_path / name / f'{place}-"><img src=x>.png', record=record)
        return ["--arm", f"<b>a</b>={tmp_path / 'a'}", "--arm", f"b={tmp_path / 'b'}"]

    return make


JUDGES = ["--judge", "starter:judge", "--judge", "starter"]


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


def test_folders_made_elsewhere(folders: Any, tmp_path: Path, cli: Any) -> None:
    found = cli("eval", "run", *folders(), *JUDGES, "--out", tmp_path / "run", "--json")
    assert found.code == 0, found.err
    summary = found.data
    assert set(summary["arms"]) == {"<b>a</b>", "b"}
    assert summary["pictures"] == 2 * len(HOSTILE)
    samples = [json.loads(x) for x in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [s["prompt"] for s in samples if s["arm"] == "b"] == list(HOSTILE)
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<script") == 2  # the data's and its own
    assert "<img" not in page
    assert "document.title" in page  # there, as data
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    for kind, tag in (("script-src", "<script>"), ("style-src", "<style>")):
        text = page.split(tag)[1].split(f"</{tag[1:]}")[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} &#x27;sha256-{digest}&#x27;" in policy
    assert policy.startswith("default-src &#x27;none&#x27;")


def test_a_picture_that_was_changed_is_scored_again(folders: Any, tmp_path: Path, cli: Any) -> None:
    given = [*folders(("one",)), *JUDGES, "--out", tmp_path / "run", "--json"]
    before = cli("eval", "run", *given)
    assert before.code == 0, before.err
    assert "one prompt: no interval and no test" in before.data["warnings"]
    assert before.data["duels"] == []
    (changed,) = (tmp_path / "b").iterdir()
    changed.unlink()
    save_png(Image.new("RGB", (64, 64), "red"), changed, record={"prompt": "one"})
    after = cli("eval", "run", *given).data["arms"]
    for arm, same in (("b", False), ("<b>a</b>", True)):
        now, then = (found[arm]["means"]["starter"] for found in (after, before.data["arms"]))
        assert (now == then) is same


def test_what_does_not_pair_is_said(folders: Any, tmp_path: Path, cli: Any) -> None:
    arms = folders()
    extra = tmp_path / "b" / "x.png"
    cases: list[tuple[Callable[[], Any], list[str], str]] = [
        (lambda: None, [*arms[:2], *JUDGES], "got 1 --arm, expected two or more"),
        (lambda: None, [*arms, *JUDGES[:2]], "got 1 --judge, expected two or more"),
        (lambda: None, ["--arm", "a", *arms, *JUDGES], "got --arm 'a', expected NAME=DIR"),
        (
            lambda: Image.new("RGB", (9, 9)).save(extra),
            [*arms, *JUDGES],
            "x.png: says no prompt, expected one as in the others",
        ),
        (
            lambda: (
                extra.unlink(),
                save_png(Image.new("RGB", (9, 9)), extra, record={"prompt": "q"}),
            ),
            [*arms, *JUDGES],
            "x.png: is of no prompt of the experiment",
        ),
        (lambda: None, [*arms, *JUDGES], "arm <b>a</b> is the only one: there is nothing to"),
        (lambda: extra.write_bytes(b"no"), [*arms, *JUDGES], "x.png: not an image"),
    ]
    for number, (change, arguments, reason) in enumerate(cases):
        change()
        found = cli("eval", "run", *arguments, "--out", tmp_path / f"run{number}")
        assert reason in found.err + found.out, reason


def test_several_pictures_of_a_prompt_count_once(folders: Any, tmp_path: Path, cli: Any) -> None:
    given = [*folders(("a", "b", "a", "b", "c", "c")), *JUDGES, "--json", "--out"]
    found = cli("eval", "run", *given, tmp_path / "run")
    assert found.code == 0, found.err
    assert (found.data["prompts"], found.data["pictures"]) == (3, 12)
    assert {duel["prompts"] for duel in found.data["duels"]} == {3}
    next((tmp_path / "a").iterdir()).unlink()
    found = cli("eval", "run", *given, tmp_path / "other")
    assert found.code == 2
    assert "got 2 pictures of" in found.err


def test_prompts_of_a_file_go_with_pictures_that_say_none(
    folders: Any, tmp_path: Path, cli: Any
) -> None:
    arms = folders(("a", "b", "c"), say=False)
    (tmp_path / "p.txt").write_text("a star\na ring\na cross\n")
    given = [*arms, *JUDGES, "--out", tmp_path / "run"]
    assert "says no prompt, expected --prompts" in cli("eval", "run", *given).err
    found = cli("eval", "run", *given, "--prompts", tmp_path / "p.txt", "--json")
    assert found.code == 0, found.err
    assert found.data["prompts"] == 3
    (tmp_path / "p.txt").write_text("a star\na ring\n")
    found = cli("eval", "run", *given[:-1], tmp_path / "two", "--prompts", tmp_path / "p.txt")
    assert "got 3 pictures, expected 2" in found.err
