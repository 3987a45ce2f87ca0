"""`clipguide eval run` of folders made elsewhere: what pairs, what counts, hostile prompts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipguide.data.scenes import render, sample_scene
from clipguide.report.metadata import save_png

HOSTILE = (
    '<script>document.title="no"</script>', "</script><img src=x onerror=alert(1)>", "a, b\nc",
    "שלום \u202e right to left", "' \" & \\ ${x} {{x}} <!-- -->",
)  # fmt: skip


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
