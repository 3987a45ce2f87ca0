"""The starter scores what it draws: never photographs by default, never other words in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from PIL import Image

from clipguide.data.scene_captions import unknown_words
from clipguide.report.metadata import save_drawing, save_png

Cli = Callable[..., Outcome]
SAYS = ("give --scorer", "open_clip:ViT-B-32/openai", "hf:openai/clip-vit-base-patch32")


def picture(path: Path, color: str, model: str | None) -> None:
    record = None if model is None else {"schema": 1, "settings": {"model": model}}
    save_png(Image.new("RGB", (32, 32), color), path, record=record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of the starter's, a sheet of them, and their captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = ["image\tcaption"]
    for name in ("red", "blue", "green"):
        picture(folder / f"{name}.png", name, "starter")
        rows.append(f"{name}.png\ta {name} star")
    save_drawing(Image.new("RGB", (64, 32)), folder / "sheet.png", ["red.png"])
    (tmp_path / "c.tsv").write_text("\n".join(rows))
    return folder


def commands(folder: Path) -> dict[str, list[object]]:
    captions = folder.parent / "c.tsv"
    pairs: list[object] = ["--captions", captions, "--images", folder]
    return {
        "score": ["score", folder, "--prompt", "a red star"],
        "captions": ["score", folder, "--captions", captions],
        "against": ["score", folder, "--against", folder, "--captions", captions],
        "rerank": ["rerank", folder, "--prompt", "a red star"],
        "classify": ["classify", folder, "--labels", "a red star,a blue star"],
        "match": ["match", folder, "--captions", captions],
        "retrieval": ["eval", "retrieval", *pairs],
        "index": ["index", folder, "--to", folder.parent / "index"],
    }


NAMES = ("score", "captions", "against", "rerank", "classify", "match", "retrieval", "index")


@pytest.mark.parametrize("name", NAMES)
def test_photographs_have_no_scorer_by_default(cli: Cli, folder: Path, name: str) -> None:
    picture(folder / "red-2.png", "red", None)
    picture(folder / "red-3.png", "red", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    extra = "\nred-2.png\ta red star\nred-3.png\ta red star"
    (folder.parent / "c.tsv").open("a").write(extra)
    done = cli(*commands(folder)[name])
    assert done.code == 2
    assert "red-2.png" in done.err
    assert all(word in done.err for word in SAYS)
    assert len([line for line in done.err.splitlines() if "left out" not in line]) == 1
    assert not done.out
    assert not (folder.parent / "index").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_starter_is_the_default_for_its_own(cli: Cli, folder: Path, name: str) -> None:
    done = cli(*commands(folder)[name], "--json")
    assert done.code == 0, done.err
    assert done.data["scorer"] == "starter"
    assert "left out 1 pictures that are made of others" in done.err
    assert "no caption" not in done.err
    assert "cannot read" not in done.err


def test_a_jpeg_and_a_captions_file_need_a_scorer(cli: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.jpg")
    (tmp_path / "c.tsv").write_text("image\tcaption\na.jpg\ta dog\n")
    for command in (
        ["score", tmp_path / "a.jpg", "--prompt", "a dog"],
        ["index", tmp_path / "c.tsv", "--to", tmp_path / "i"],
        ["generate", "a dog", "--model", "some/model", "--out", tmp_path / "o"],
    ):
        done = cli(*command)
        assert (done.code, all(word in done.err for word in SAYS)) == (2, True)
        assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_sheets_are_not_indexed(cli: Cli, folder: Path) -> None:
    place = folder.parent / "index"
    for _ in range(2):  # the second finds nothing new, and the sheet is still left out
        done = cli("index", folder, "--to", place, "--json")
        found = {name: done.data[name] for name in ("items", "bad", "composites")}
        assert found == {"items": 3, "bad": {}, "composites": 1}
        assert "left out 1 pictures that are made of others" in done.err
    hits = cli("search", place, "a red star", "--json").data["results"][0]["hits"]
    assert sorted(Path(hit["path"]).name for hit in hits) == ["blue.png", "green.png", "red.png"]


@pytest.mark.parametrize("name", ["score", "rerank", "classify", "search"])
def test_words_that_the_starter_does_not_know_are_said(cli: Cli, folder: Path, name: str) -> None:
    command: dict[str, list[object]] = {
        "score": ["score", folder, "--prompt", "a dog on green grass"],
        "rerank": ["rerank", folder, "--prompt", "a dog on green grass"],
        "classify": ["classify", folder, "--labels", "star,dog,grass"],
        "search": ["search", folder.parent / "index", "a dog on green grass"],
    }
    cli("index", folder, "--to", folder.parent / "index")
    done = cli(*command[name], "--json")
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "warning" in line]
    assert "it does not know: dog, grass" in line
    json.loads(done.out)


def test_unknown_words() -> None:
    assert unknown_words("A red star to the left of a blue ring.") == []
    assert unknown_words("A red dog left of a blue DOG, at dawn: it's naïve 東京") == [
        "dog", "at", "dawn", "it's", "naïve", "東京",
    ]  # fmt: skip
