"""`clipguide rerank` by several scorers, and of tables, against the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from tiny_rewards import images

import clipguide
from clipguide.clip.ensemble import Ensemble
from clipguide.images import to_pil
from clipguide.rerank import rerank, rerank_groups

Cli = Callable[..., Outcome]


@pytest.fixture
def folder_of_four(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(to_pil(images(4, 32))):
        image.save(folder / f"{place}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("join", ["rank", "score", "cascade"])
def test_the_command_joins_scorers_as_the_library_does(
    cli: Cli, tiny_models: Path, folder_of_four: Path, join: str
) -> None:
    both = [tiny_models / "clip", tiny_models / "judge"]
    named = [part for one in both for part in ("--scorer", one)]
    more = ["--keep", 2] if join == "cascade" else ["--weight", 3, "--weight", 1]
    done = cli(
        "rerank", folder_of_four, "--prompt", "a fox", *named, "--join", join, *more, "--json"
    )
    assert done.code == 0, done.err
    files = [folder_of_four / f"{place}.png" for place in range(4)]
    scorers = [clipguide.load_scorer(one) for one in both]
    expected = (
        rerank(files, "a fox", scorers, keep=2)
        if join == "cascade"
        else rerank(files, "a fox", Ensemble(scorers, [3, 1], by=join))
    )
    assert [row["image"] for row in done.data["results"]] == [str(row.image) for row in expected]
    for row, one in zip(done.data["results"], expected, strict=True):
        assert row["value"] == pytest.approx(one.score, abs=1e-6)
        assert row["scorer"] == one.scorer
    assert [row["image"] for row in done.data["bad"]] == [str(folder_of_four / "bad.png")]


def test_the_command_ranks_the_images_of_each_prompt_of_a_table(
    cli: Cli, tiny_models: Path, folder_of_four: Path
) -> None:
    rows = [
        ("a fox", "0.png"),
        ("b", "1.png"),
        ("a fox", "2.png"),
        ("b", "0.png"),
        ("b", "bad.png"),
    ]
    lines = ["prompt\timage", *("\t".join(row) for row in rows)]
    table = folder_of_four / "pairs.tsv"
    table.write_text("\n".join(lines))
    scorer = ["--scorer", tiny_models / "clip"]
    done = cli("rerank", "--table", table, *scorer, "--json")
    assert done.code == 0, done.err
    good = [(prompt, folder_of_four / name) for prompt, name in rows if name != "bad.png"]
    expected = rerank_groups(good, clipguide.load_scorer(tiny_models / "clip"))
    found = {group["prompt"]: group["results"] for group in done.data["groups"]}
    assert {prompt: [row["image"] for row in own] for prompt, own in found.items()} == {
        prompt: [str(row.image) for row in own] for prompt, own in expected.items()
    }
    assert cli("rerank", "--table", table, *scorer, "--top-k", 1).out.count(".png") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight", 1], "got 1 --weight for 2 --scorer"),
        (["--keep", 1], "expected --join cascade too"),
        (["--join", "vote"], "expected one of rank, score, cascade"),
    ],
)
def test_options_of_several_scorers_that_do_not_fit(
    cli: Cli, folder_of_four: Path, arguments: list[object], message: str
) -> None:
    scorers = ["--scorer", "starter", "--scorer", "starter:judge"]
    done = cli("rerank", folder_of_four, "--prompt", "x", *scorers, *arguments)
    assert (done.code, message in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt\tsize\na\t1\n", "got columns prompt, size, expected prompt and image"),
        ("prompt\timage\na\tnowhere.png\n", "nowhere.png: no such file"),
        ("prompt\timage\n", "no rows in it"),
        ("prompt\timage\na\n", "line 2"),
    ],
)
def test_tables_that_cannot_be_read(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.tsv").write_text(text)
    done = cli("rerank", "--table", tmp_path / "t.tsv", "--scorer", "starter")
    assert (done.code, message in done.err) == (2, True), done.err
