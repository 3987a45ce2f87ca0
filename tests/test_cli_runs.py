"""`generate`: where prompts and seeds come from, and what is kept."""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from PIL import Image

from clipguide.cli.run import SeedPlan
from clipguide.cli.run_folder import RunFolder
from clipguide.data.prompt_files import read_prompts
from clipguide.report.metadata import is_composite, save_drawing, save_png

Cli = Callable[..., Outcome]
BLACK = Image.new("RGB", (32, 32))


@pytest.fixture
def generate(cli: Cli, tiny_models: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs `generate` on the tiny models, two steps, into `tmp_path/out`."""

    def run(*arguments: object) -> Outcome:
        base = ["generate", "--model", tiny_models / "pipe", "--scorer", tiny_models / "clip"]
        base += ["--strength", 0, "--steps", 2, "--out", tmp_path / "out"]
        return cli(*base, *arguments)

    return run


# --- prompts and seeds ---------------------------------------------------------------------------

FILES = {
    "p.txt": "a fox\n\n  ein Füchslein\u2028x \r\na fox\r",
    "p.tsv": "n\tprompt\n1\ta fox\n2\tein Füchslein\u2028x\n3\ta fox\n",
    "p.csv": 'prompt,n\r\na fox,1\r\n"ein Füchslein\u2028x",2\r\na fox,3\r\n',
    "p.jsonl": '{"prompt": "a fox", "text": "no"}\n"ein Füchslein\u2028x"\n{"text": "a fox"}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_prompts_of_a_file(tmp_path: Path, name: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / name).write_bytes(FILES[name].encode(encoding))
        assert read_prompts(tmp_path / name) == ["a fox", "ein Füchslein\u2028x", "a fox"]


BAD = {
    "p.txt": [("\n \n", "no prompts"), ("a\0", "NUL")],
    "p.csv": [
        ("name\nx\n", "got columns name, expected one of prompt"),
        ('prompt\n"x\n', "line 2"),
    ],
    "p.tsv": [("prompt\tn\nx\n", "line 2"), ("prompt\tn\n \tx\n", "line 2: got an empty prompt")],
    "p.jsonl": [("3\n", "line 1: got prompt 3"), ('"\\ud800"\n', "UTF-8"), ("{\n", "line 1")],
    "p.json": [
        ("[]", "no prompts"),
        ("[3]", "entry 1: got prompt 3"),
        ('{"a star": "star.png"}', "got the picture star.png"),
    ],
}


@pytest.mark.parametrize("name", BAD)
def test_prompts_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    for text, word in BAD[name]:
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=word) as caught:
            read_prompts(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_prompts_of_a_file_and_of_stdin_are_made(
    generate: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.txt").write_text("a fox\na dog\n")
    assert [
        r["prompt"] for r in generate("--prompts", tmp_path / "p.txt", "--json").data["results"]
    ]
    for arguments in (["-"], ["--prompts", "-"]):
        stream = io.TextIOWrapper(io.BytesIO("a fox\nein Füchslein\n".encode()))
        monkeypatch.setattr(sys, "stdin", stream)
        rows = generate(*arguments, "--json").data["results"]
        assert [row["prompt"] for row in rows] == ["a fox", "ein Füchslein"]
    both = generate("x", "--prompts", tmp_path / "p.txt")
    assert (both.code, "expected one of them" in both.err) == (2, True)


def test_random_and_same_seeds(generate: Cli) -> None:
    rows = generate("a", "b", "--num", 2, "--seed", 5, "--same-seed", "--json").data["results"]
    assert [row["seed"] for row in rows] == [5, 6, 5, 6]
    drawn = [generate("a", "--seed", "random", "--json").data["results"][0]["seed"] for _ in "ab"]
    assert drawn[0] != drawn[1]
    wrong = generate("a", "--seed", "some")
    assert (wrong.code, "expected a number or random" in wrong.err) == (2, True)


def test_seeds_of_prompts() -> None:
    assert SeedPlan(3, 2).of(2, 2) == [[3, 4], [5, 6]]
    assert SeedPlan(3, same=True).of(3, 2) == [[3, 4]] * 3


def test_messages_of_searches_name_the_flags(generate: Cli) -> None:
    few = generate("x", "--search", "svdd", "--budget", 3)
    assert (few.code, "--search svdd spends --budget 3 in 4s" in few.err) == (2, True)
    for search in ("svdd", "fk"):
        plain = generate("x", "--search", search, "--budget", 4, "--sampler", "ddim")
        assert plain.code == 2
        assert f"--search {search} needs a sampler that adds noise" in plain.err
        assert "--sampler euler_a" in plain.err


# --- what is there is kept -----------------------------------------------------------------------


def test_runs_into_one_folder_at_once_lose_nothing(tmp_path: Path) -> None:
    """Both begin at the same number."""
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    names = []
    for turn in range(3):
        for folder in (first, second):
            file = folder.write_numbered("a fox", lambda file: save_png(BLACK, file))
            folder.add_rows([{"file": file.name, "turn": turn}])
            names.append(file.name)
    assert len(set(names)) == 6
    assert sorted(names) == sorted(file.name for file in tmp_path.glob("*.png"))
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    assert [row["file"] for row in rows] == names
    sheets = [folder.write_sheet(lambda file: save_png(BLACK, file)) for folder in (first, second)]
    assert [sheet.name for sheet in sheets] == ["contact_sheet.png", "contact_sheet-1.png"]


def test_a_picture_is_never_replaced(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    save_png(BLACK, tmp_path / "photos" / "a.png")
    photo = tmp_path / "photos" / "a.png"
    before = photo.read_bytes()
    with pytest.raises(FileExistsError):
        save_png(BLACK, photo)
    (tmp_path / "t.txt").write_text("x\n")
    scorer = ["--scorer", tiny_models / "clip"]
    for command in (
        ["match", tmp_path / "photos", "--texts", tmp_path / "t.txt", "--out", photo, *scorer],
        ["reproduce", photo, "--out", photo],
        ["classify", tmp_path / "photos", "--folders", "--confusion", photo, *scorer],
    ):
        done = cli(*command)
        assert (done.code, "which is there and is kept" in done.err) == (2, True), done
    rank = ["rerank", tmp_path / "photos", "--prompt", "x", "--out", tmp_path / "best", *scorer]
    assert cli(*rank).code == 0
    again = cli(*rank)
    assert (again.code, "choose another folder" in again.err) == (2, True)
    assert photo.read_bytes() == before
    save_drawing(BLACK, tmp_path / "d.png", [])
    save_drawing(BLACK, tmp_path / "d.png", ["a.png"])  # an earlier drawing


def test_an_interrupted_run_says_what_is_kept(tiny_models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clipguide", "generate", *(["a fox"] * 400)]
    command += ["--model", str(tiny_models / "pipe"), "--scorer", str(tiny_models / "clip")]
    command += ["--steps", "1", "--strength", "0", "--out", str(tmp_path / "out")]
    # a shell that runs the tests in the background makes its children deaf to the signal
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "3 of 400 pictures" in line:
                os.kill(run.pid, signal.SIGINT)
                break
        rest = run.stderr.read()
    assert run.returncode == 130
    last = [line for line in rest.splitlines() if line.strip()][-1]
    kept = len([*(tmp_path / "out").glob("0*.png")])
    assert kept == len((tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert f"interrupted: {kept} of 400 are kept in {tmp_path / 'out'}" in last
    assert "Traceback" not in rest


# --- pictures made of others ---------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--no-metadata"]])
def test_sheets_and_pairs_are_no_pictures(
    generate: Cli, cli: Cli, tiny_models: Path, tmp_path: Path, flags: list[str]
) -> None:
    generate("a fox", "b", "--compare", "--strength", 1, *flags)
    files = [*(tmp_path / "out").glob("*.png")]
    assert len(files) == 7
    scorer = ["--scorer", tiny_models / "clip", "--json"]
    for command in ("score", "rerank"):
        done = cli(command, tmp_path / "out", "--prompt", "x", *scorer)
        names = sorted(Path(row["image"]).name for row in done.data["results"])
        assert names == [
            "0000-a-fox-unguided.png", "0000-a-fox.png", "0001-b-unguided.png", "0001-b.png",
        ]  # fmt: skip
        assert done.data["counts"]["composites"] == 3
        assert "left out 3 pictures that are made of others" in done.err
    sheet = tmp_path / "out" / "contact_sheet.png"
    named = cli("score", sheet, "--prompt", "x", *scorer)
    assert len(named.data["results"]) == 1


def test_a_users_own_picture_of_such_a_name_counts(tmp_path: Path) -> None:
    for name in ("contact_sheet.png", "0000-a-compare.png"):
        BLACK.save(tmp_path / name)
        assert not is_composite(tmp_path / name)
    save_drawing(BLACK, tmp_path / "x.png", ["odd\udcff.png"])
    assert is_composite(tmp_path / "x.png")


def test_options_of_a_search_are_given_by_name(generate: Cli) -> None:
    search = ["--search", "backstep", "--budget", 2, "--search-option"]
    done = generate("a", *search, "tries=1", "--search-option", "back=0.25", "--json")
    assert done.code == 0, done.err
    settings = done.data["results"][0]["settings"]
    assert settings["search_options"] == {"tries": 1, "back": 0.25}
    for given, message in (
        ("tries", "expected NAME=VALUE"),
        ("x=1", "expected one of back, tries"),
    ):
        done = generate("a", *search, given)
        assert (done.code, message in done.err) == (2, True), done.err
