"""`clipguide caption`: what is written where, what is left alone, how a stopped run goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_captioner_runs import toy_captioner
from tiny_captioners import tiny_git
from tiny_cross_encoders import WORDS
from transformers import GitForCausalLM

from clipguide.clip.loading import load_scorer
from clipguide.data.caption_files import CsvFile, Metadata, Sidecars
from clipguide.language.best_caption import caption_all, choose
from clipguide.language.captioner import Request, Written, doubt_of
from clipguide.language.loading import load_captioner
from clipguide.report.metadata import is_composite

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_git(tmp_path_factory.mktemp("git"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(5):  # pictures of which the tiny captioner says nothing over and over
        pixels = np.random.default_rng(number).integers(256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 32)).save(place / f"{number}.png")
    return place


def texts(git: Path, folder: Path) -> dict[str, str]:
    found = load_captioner(git).caption(files := sorted(folder.glob("*.png")))
    return {file.name: one[0].text for file, one in zip(files, found, strict=True)}


def test_sidecars_metadata_and_csv_hold_the_captions(cli: Cli, git: Path, folder: Path) -> None:
    wanted = texts(git, folder)
    done = cli("caption", folder, "--captioner", git, "--sidecar", "--json")
    assert done.code == 0
    assert {Path(row["image"]).name: row["caption"] for row in done.data["results"]} == wanted
    for name, text in wanted.items():
        assert (folder / name).with_suffix(".txt").read_text() == text + "\n"
    for file in ("metadata.jsonl", "captions.csv"):
        assert cli("caption", folder, "--captioner", git, "--out", folder / file).code == 0
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert {row["file_name"]: row["text"] for row in rows} == wanted
    with (folder / "captions.csv").open() as opened:
        table = [*csv.DictReader(opened)]
    assert {row["image"]: row["caption"] for row in table} == wanted


def test_what_is_there_is_left_alone(cli: Cli, git: Path, folder: Path) -> None:
    (folder / "1.txt").write_text("by hand")
    (folder / "2.caption").write_text("of another tool")
    done = cli("caption", folder, "--captioner", git, "--sidecar", "--json")
    assert done.data["captioned_before"] == 2
    assert len(done.data["results"]) == 3
    assert "1 pictures have a text of another tool, e.g. 2.caption" in done.err
    assert (folder / "1.txt").read_text() == "by hand"
    assert not (folder / "2.txt").exists()
    again = cli("caption", folder, "--captioner", git, "--sidecar", "--json")
    assert again.data["results"] == []
    assert "all 5 pictures have a caption already" in again.err
    cli("caption", folder, "--captioner", git, "--sidecar", "--overwrite")
    assert (folder / "1.txt").read_text() == texts(git, folder)["1.png"] + "\n"
    assert (folder / "2.caption").read_text() == "of another tool"


def test_a_killed_run_goes_on(cli: Cli, git: Path, folder: Path) -> None:
    whole = folder / "whole.jsonl"
    cli("caption", folder, "--captioner", git, "--out", whole)
    lines = whole.read_text().splitlines(keepends=True)
    killed = folder / "killed.jsonl"
    killed.write_text("".join(lines[:2]) + lines[2][:9])  # in the middle of a line
    done = cli("caption", folder, "--captioner", git, "--out", killed, "--json")
    assert done.data["captioned_before"] == 2
    assert killed.read_text() == whole.read_text()


def test_a_last_line_of_another_tool_stays(tmp_path: Path) -> None:
    picture, other = tmp_path / "a.png", tmp_path / "b.png"
    row = '{"file_name": "a.png", "text": "by hand"}'
    (tmp_path / "m.jsonl").write_text(row)  # without a line's end
    rows = Metadata(tmp_path / "m.jsonl")
    assert rows.done([picture, other]) == {picture}
    rows.add({other: "a dog"})
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert lines == [row, '{"file_name": "b.png", "text": "a dog"}']
    for kind, text in (
        (CsvFile, "image,caption\na.png,by hand"), (CsvFile, "notes"), (Metadata, "notes")
    ):  # fmt: skip
        file = tmp_path / "foreign"
        file.write_text(text)
        with pytest.raises(ValueError, match="choose another name"):
            kind(file).done([picture])
        assert file.read_text() == text
    for left in ("image,cap", 'image,caption\na.png,"by h', "image,caption\na.p", "image,caption"):
        (tmp_path / "k.csv").write_text(left)
        table = CsvFile(tmp_path / "k.csv")
        assert table.done([picture]) == set()
        table.add({picture: "a cat"})
        assert (tmp_path / "k.csv").read_text() == "image,caption\na.png,a cat\n"


def test_a_file_in_another_encoding_is_not_added_to(tmp_path: Path) -> None:
    text = "image,caption\na.png,by hand\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / "k.csv").write_text(text, encoding=encoding)
        table = CsvFile(tmp_path / "k.csv")
        if encoding.startswith("utf-8"):
            assert table.done([tmp_path / "a.png"]) == {tmp_path / "a.png"}
            continue
        with pytest.raises(ValueError, match="expected UTF-8; choose another name"):
            table.done([tmp_path / "a.png"])
        assert (tmp_path / "k.csv").read_text(encoding=encoding) == text


def test_names_that_no_file_holds_and_texts_of_lines(tmp_path: Path) -> None:
    odd = tmp_path / "bad\udcff.png"  # a byte that is not UTF-8
    with pytest.raises(ValueError, match=r"bad\\xff, which is not UTF-8"):
        Metadata(tmp_path / "m.jsonl").done([odd])
    Sidecars().add({tmp_path / "a.png": "a dog\n  and a cat "})
    assert (tmp_path / "a.txt").read_text() == "a dog and a cat\n"


def test_a_drawn_caption_is_of_its_picture_and_seed_alone(git: Path, folder: Path) -> None:
    captioner, how = load_captioner(git), Request(2, "sample")
    images = [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.png"))]
    together = caption_all(captioner, images, how, 3)
    assert together == [caption_all(captioner, [one], how, 3)[0] for one in images]
    assert together != caption_all(captioner, images, how, 4)


def test_the_scorer_chooses_among_several(
    cli: Cli, git: Path, folder: Path, clip_dir: Path
) -> None:
    options = ["--captioner", git, "--count", "3", "--rerank", clip_dir, "--json"]
    done = cli("caption", folder, *options)
    scorer, captioner = load_scorer(clip_dir), load_captioner(git)
    assert len(done.data["results"]) == 5
    for row in done.data["results"]:
        written = captioner.caption([row["image"]], 3)[0]
        texts = [one.text for one in written if not doubt_of(one.text)]
        scores = scorer.similarity([row["image"]], texts)[0].tolist()
        assert row["score"] == pytest.approx(max(scores), abs=1e-5)
        assert row["caption"] == texts[scores.index(max(scores))]


def test_what_says_nothing_is_not_chosen(clip_dir: Path) -> None:
    image, scorer = Image.new("RGB", (32, 32), "red"), load_scorer(clip_dir)
    texts = ["dog dog dog dog dog", "", "a cat", "a red ball"]
    chosen = choose(image, [Written(text, -1.0, 1) for text in texts], scorer)
    scores = scorer.similarity([image], texts[2:])[0].tolist()
    assert chosen.caption.text == texts[2:][scores.index(max(scores))]
    none = choose(image, [Written(text, -1.0, 1) for text in texts[:2]], scorer)
    assert none.doubt == "got a caption that repeats 'dog'"


def test_a_captioner_that_says_nothing_makes_no_sidecar(
    cli: Cli, folder: Path, tmp_path: Path
) -> None:
    place = tiny_git(tmp_path / "stuck")
    model = GitForCausalLM.from_pretrained(place)
    with torch.no_grad():
        model.output.bias[WORDS.index("star")] = 1e4
    model.save_pretrained(place)
    done = cli("caption", folder, "--captioner", place, "--sidecar", "--json")
    assert done.data["results"] == []
    assert [row["reason"] for row in done.data["bad"]] == ["got a caption that repeats 'star'"] * 5
    assert not [*folder.glob("*.txt")]


def test_the_attention_is_a_drawing(
    cli: Cli, toys: Path, folder: Path, clip_dir: Path, git: Path, tmp_path: Path
) -> None:
    output, rate = tmp_path / "soft", {"learning_rate": 0.01, "every": 40}
    toy_captioner(toys, "soft_attention", output, clip_dir, epochs=40, batch=4, **rate).train()
    picture = tmp_path / "a.png"
    done = cli("caption", folder / "1.png", "--captioner", output, "--attention", picture, "--json")
    assert done.code == 0
    assert is_composite(picture)
    words = len(done.data["results"][0]["caption"].split())
    assert Image.open(picture).width == pytest.approx((words + 1) * (192 * 40 / 40 + 4), abs=60)
    options = ["--sidecar", "--attention", tmp_path / "b.png"]
    refused = cli("caption", folder, "--captioner", git, *options)
    assert refused.code == 2
    assert not [*folder.glob("*.txt")]  # before it captions anything
    assert "does not look at places" in refused.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "3"], "--rerank SCORER, which chooses"),
        (["--method", "best"], "expected one of ['greedy', 'beam', 'sample']"),
        (["--out", "captions.txt"], "expected a name that ends with"),
        (["--overwrite"], "expected --sidecar with it"),
        (["--attention", "a.jpg"], "expected a .png"),
        (["--attention", "a.png", "--method", "sample"], "leave out --method sample"),
        (["--captioner", "nothing"], "got captioner 'nothing', expected starter, hf:"),
    ],
)
def test_mistakes_are_one_line(
    cli: Cli, git: Path, folder: Path, options: list[str], words: str
) -> None:
    done = cli("caption", folder, "--captioner", git, *options)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1


def test_files_of_another_kind_are_refused(cli: Cli, git: Path, folder: Path) -> None:
    (folder / "m.jsonl").write_text('{"a": 1}\n')
    (folder / "c.csv").write_text("name,text\n")
    for file in ("m.jsonl", "c.csv"):
        done = cli("caption", folder, "--captioner", git, "--out", folder / file)
        assert done.code == 2
        assert "choose another name" in done.err
    Image.new("RGB", (8, 8)).save(folder / "1.jpg")
    done = cli("caption", folder, "--captioner", git, "--sidecar")
    assert "1.jpg and 1.png" in done.err
    assert Metadata(folder / "none.jsonl").done([folder / "1.png"]) == set()
