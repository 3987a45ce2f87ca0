"""`clipguide rerank` by several scorers, and of tables, against the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from safetensors.torch import load_file
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


def kept_rows(folder: Path) -> list[int]:
    """How many vectors of each model a folder keeps."""
    counts: dict[Path, int] = {}
    for file in folder.rglob("*.safetensors"):
        counts[file.parent] = counts.get(file.parent, 0) + len(load_file(file)["keys"])
    return sorted(counts.values())


def test_a_cascade_asks_the_second_scorer_what_the_first_kept(
    cli: Cli, tiny_models: Path, folder_of_four: Path, tmp_path: Path
) -> None:
    both = [tiny_models / "clip", tiny_models / "judge"]
    named = [part for one in both for part in ("--scorer", one)]
    rows = [("a fox", "0.png"), ("b", "1.png"), ("a fox", "2.png"), ("b", "0.png"), ("b", "3.png")]
    table = folder_of_four / "pairs.tsv"
    table.write_text("\n".join(["prompt\timage", *("\t".join(row) for row in rows)]))
    options = [*named, "--join", "cascade", "--vectors", tmp_path / "kept", "--json"]

    done = cli("rerank", folder_of_four, "--prompt", "a fox", *options)
    assert done.code == 0, done.err
    assert kept_rows(tmp_path / "kept") == [1, 4]  # a quarter of the four that can be read

    done = cli("rerank", "--table", table, *options, "--keep", 1)
    scorers = [clipguide.load_scorer(one) for one in both]
    expected = rerank_groups([(t, folder_of_four / n) for t, n in rows], scorers, keep=1)
    for group in done.data["groups"]:
        assert [(row["image"], row["scorer"]) for row in group["results"]] == [
            (str(row.image), row.scorer) for row in expected[group["prompt"]]
        ]


def test_a_third_scorer_sees_a_quarter_of_what_the_second_saw(
    cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    folder, names = tmp_path / "photos", ["clip", "judge", "clip"]
    folder.mkdir()
    for place, image in enumerate(to_pil(images(17, 32))):
        image.save(folder / f"{place:02}.png")
    named = [part for one in names for part in ("--scorer", tiny_models / one)]
    done = cli("rerank", folder, "--prompt", "a fox", *named, "--join", "cascade", "--json")
    assert done.code == 0, done.err
    expected = rerank(folder, "a fox", [tiny_models / one for one in names])
    assert [(row["image"], row["scorer"]) for row in done.data["results"]] == [
        (str(row.image), row.scorer) for row in expected
    ]
    judged = [row for row in expected if row.scorer.endswith("judge")]
    assert len(judged) == 5 - 2  # the two best of its five went on


def test_as_many_as_are_asked_for_reach_the_last_scorer_of_a_cascade(
    cli: Cli, tiny_models: Path, folder_of_four: Path
) -> None:
    named = ["--scorer", tiny_models / "clip", "--scorer", tiny_models / "judge"]
    options = [*named, "--join", "cascade", "--top-k", 3, "--json"]
    done = cli("rerank", folder_of_four, "--prompt", "a fox", *options)
    assert [row["scorer"] for row in done.data["results"]] == [str(tiny_models / "judge")] * 3


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
        (["--weight", 1, "--weight", -1], "got --weight 1 -1, expected numbers >= 0, not all 0"),
        (["--weight", "nan", "--weight", 1], "got --weight nan 1, expected numbers >= 0"),
        (["--weight", 0, "--weight", 0], "expected numbers >= 0, not all 0"),
        (["--diversity", 2], "got --diversity 2, expected a number in [0, 1]"),
        (["--diversity", "nan"], "got --diversity nan, expected a number in [0, 1]"),
        (["--diversity", 0.5], "got --diversity with --join rank, whose mean has no vectors"),
        (["--join", "cascade", "--keep", 1, "--top-k", 2], "got --keep 1, expected at least"),
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
