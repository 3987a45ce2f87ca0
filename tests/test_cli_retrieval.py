"""`clipguide index` and `search`: the answers are the scorer's, every mistake is one line."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image

from clipguide.clip.scorer import Scorer
from clipguide.evaluation.confusion import expected_calibration_error
from clipguide.retrieval import open_index

Cli = Callable[..., Outcome]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(10):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def indexed(cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path) -> Path:
    done = cli("index", photos, "--to", tmp_path / "i", "--scorer", tiny_models / "clip", "--json")
    assert done.code == 0, done.err
    assert (done.data["items"], done.data["embedded"], done.data["bad"]) == (10, 10, {})
    return tmp_path / "i"


def test_hits_are_the_scorers_cosines(
    cli: Cli, photos: Path, indexed: Path, tiny_scorer: Scorer
) -> None:
    done = cli("search", indexed, "a", "red", "fox", "--top-k", 4, "--json")
    files = sorted(photos.iterdir())
    cosines = tiny_scorer.similarity(files, "a red fox")[:, 0].tolist()
    order = sorted(range(10), key=lambda i: -cosines[i])[:4]
    (result,) = done.data["results"]
    assert result["query"] == "a red fox"
    assert [hit["path"] for hit in result["hits"]] == [str(files[i]) for i in order]
    found = [hit["cosine"] for hit in result["hits"]]
    assert found == pytest.approx([cosines[i] for i in order], abs=1e-3)
    assert [hit["rank"] for hit in result["hits"]] == [1, 2, 3, 4]
    chances = [hit["probability"] for hit in result["hits"]]
    assert chances == sorted(chances, reverse=True)
    assert done.data["convention"] == "cosine"


def test_images_and_sums_are_queries(
    cli: Cli, photos: Path, indexed: Path, tiny_scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    first = cli("search", indexed, "3.png", "--json").data["results"][0]["hits"][0]
    assert Path(first["path"]).name == "3.png"
    assert first["cosine"] == pytest.approx(1, abs=1e-3)
    shown = cli("search", indexed, "beach", "+", "3.png", "-", "people", "--show", "paths").out
    texts = tiny_scorer.encode_text(["beach", "people"])
    files = sorted(photos.iterdir())
    images = tiny_scorer.encode_image(files)
    scores = images @ (texts[0] + images[3] - texts[1])
    order = sorted(range(10), key=lambda i: -float(scores[i]))
    assert shown.splitlines() == [str(files[i]) for i in order]


def test_many_queries_and_no_match(cli: Cli, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a fox\n\na cat\n")
    done = cli("search", indexed, "--queries", tmp_path / "q.txt", "--top-k", 2, "--json")
    assert [row["query"] for row in done.data["results"]] == ["a fox", "a cat"]
    assert [len(row["hits"]) for row in done.data["results"]] == [2, 2]
    single = cli("search", indexed, "a cat", "--top-k", 2, "--json").data["results"][0]
    assert single == done.data["results"][1]
    none = cli("search", indexed, "a fox", "--min-p", 1)
    assert (none.code, none.out) == (0, "no match\n")
    assert cli("search", indexed, "a fox", "--where", "width>32").out == "no match\n"


def test_the_page_holds_its_pictures(cli: Cli, indexed: Path, photos: Path, tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    cli("search", indexed, "<b>a fox</b>", "--top-k", 3, "--html", page)
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 3
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.size == (32, 32)
    assert "<h2>&lt;b&gt;a fox&lt;/b&gt;</h2>" in text
    assert "<b>" not in text
    assert not re.search(r'(src|href)="https?:', text)


def test_the_index_of_a_folder_is_inside_it_by_default(
    cli: Cli, photos: Path, tiny_models: Path
) -> None:
    base = ["index", photos, "--scorer", tiny_models / "clip", "--json"]
    assert cli(*base).data["embedded"] == 10
    again = cli("index", photos, "--json").data  # the scorer is the index's own
    assert (again["unchanged"], again["embedded"]) == (10, 0)
    assert len(cli("search", photos, "x", "--json").data["results"][0]["hits"]) == 10


def test_bad_files_are_listed(cli: Cli, photos: Path, indexed: Path) -> None:
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    done = cli("index", photos, "--to", indexed)
    assert done.code == 0
    assert f"skipped {photos / 'bad.png'}: " in done.err
    assert "10 items (0 added" in done.out
    assert "1 bad" in done.out


def test_check_and_duplicates(cli: Cli, photos: Path, indexed: Path) -> None:
    (photos / "copy.png").write_bytes((photos / "4.png").read_bytes())
    cli("index", photos, "--to", indexed)
    groups = cli("index", "duplicates", indexed, "--threshold", 1, "--json").data
    assert groups == [{"paths": ["4.png", "copy.png"], "cosine": 1.0}]
    assert cli("index", "check", indexed).code == 0
    (shard,) = (indexed / "shards").iterdir()
    shard.write_bytes(shard.read_bytes()[:-1])
    broken = cli("index", "check", indexed)
    assert broken.code == 1
    assert "BROKEN" in broken.out


def test_recall_and_calibration_are_measured_with_captions(
    cli: Cli, photos: Path, indexed: Path, tmp_path: Path, tiny_scorer: Scorer
) -> None:
    lines = [f"{number}.png\tcaption {number} {i}" for number in range(10) for i in range(4)]
    (tmp_path / "all.tsv").write_text("\n".join(["image\tcaption", *lines]))
    base = ["index", "check", indexed, "--captions", tmp_path / "all.tsv", "--json"]
    measured = cli(*base).data
    texts = [line.split("\t")[1] for line in lines]
    cosines = tiny_scorer.encode_text(texts) @ tiny_scorer.encode_image(sorted(photos.iterdir())).T
    index = open_index(indexed)
    chances, right, found, shown = [], [], 0, 0
    for row, (text, own) in enumerate(zip(texts, [i // 4 for i in range(40)], strict=True)):
        values = {i: float(cosines[row, i]) for i in range(10) if own % 2 == 0 or i != own}
        best = sorted(values, key=lambda i: -values[i])
        query = tiny_scorer.encode_text(text)[0]
        ps = index.calibration.probabilities([values[i] for i in best], query)
        chances.append(ps[0])
        right.append(best[0] == own)
        shown += sum(p >= 0.5 for p in ps)
        found += sum(p >= 0.5 and i == own for p, i in zip(ps, best, strict=True))
    assert measured["captions"] == 40
    assert measured["recall_at_10"] == 1.0  # of ten
    error = expected_calibration_error(torch.tensor(chances), torch.tensor(right))
    assert measured["calibration_error_first_hit"] == pytest.approx(error, abs=2e-3)
    assert measured["precision_at_min_p_0.5"] == (found / shown if shown else None)
    assert measured["recall_at_min_p_0.5"] == pytest.approx(found / 20)
    fitted = cli("index", photos, "--to", indexed, "--calibrate", tmp_path / "all.tsv", "--json")
    assert fitted.data["calibration"]["pairs"] == 40
    assert "recall_at_10" in cli(*base[:-1]).out


def test_captions_are_indexed_and_found_by_image(
    cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.tsv").write_text("image\tcaption\n1.png\ta cat\n1.png\ta dog\n2.png\ta fox\n")
    place = tmp_path / "captions"
    model = tiny_models / "clip"
    cli("index", tmp_path / "c.tsv", "--to", place, "--scorer", model)
    hits = cli("search", place, photos / "1.png", "--json").data["results"][0]["hits"]
    assert {(hit["path"], hit["text"]) for hit in hits} == {
        ("1.png#0", "a cat"),
        ("1.png#1", "a dog"),
        ("2.png#0", "a fox"),
    }
    refused = cli("index", "check", place, "--captions", tmp_path / "c.tsv")
    assert (refused.code, "expected an index of images" in refused.err) == (2, True)
    page = tmp_path / "match.html"
    assert "a dog" in cli("search", place, photos / "1.png", "--html", page).out
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 1  # the picture, and its captions under it
    assert text.index("base64") < text.index("a dog (cosine")


MISTAKES = {
    "no query": ("search {i}", ["QUERY", "--queries"]),
    "empty term": ("search {i} a +", ["empty term"]),
    "no index": ("search {tmp} x", ["no index there", "clipguide index"]),
    "another model": ("search {i} x --scorer {models}/judge", ["weights", "index's own model"]),
    "index of another model": ("index {photos} --to {i} --scorer {models}/judge", ["weights"]),
    "unknown field": ("search {i} x --where colour=red", ["'colour'", "prompt"]),
    "image that is not there": ("search {i} none.png", ["none.png", "no such file"]),
    "probability above one": ("search {i} x --min-p 2", ["min_p 2"]),
    "no folder": ("index {tmp}/none", ["none", "no such folder"]),
    "folder without images": ("index {tmp}/empty --to {tmp}/e", ["nothing to index"]),
    "captions without a place": ("index {tmp}/c.tsv", ["--to"]),
    "captions without columns": (
        "index {tmp}/c.tsv --to {tmp}/e --scorer starter",
        ["got columns a, b"],
    ),
    "too few captions to calibrate": (
        "index {photos} --to {i} --calibrate {tmp}/few.tsv",
        ["got 1", "at least 20"],
    ),
    "check of nothing": ("index check {tmp}", ["no index there"]),
    "check of what": ("index check", ["index check INDEX"]),
    "threshold": ("index duplicates {i} --threshold 2", ["threshold 2"]),
    "option of check": ("index {photos} --captions {tmp}/c.tsv", ["--captions", "index, which"]),
    "option of indexing": ("index duplicates {i} --scorer x", ["--scorer", "--threshold"]),
    "device of check": ("index check {i} --captions {tmp}/few.tsv --device gpu", ["'gpu'"]),
    "two folders": ("index {tmp} {photos}", ["got 2 folders"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_and_exit_code_2(
    cli: Cli, indexed: Path, photos: Path, tiny_models: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "c.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "few.tsv").write_text("image\tcaption\n1.png\tx\n")
    line, expected = MISTAKES[name]
    places = {"i": indexed, "photos": photos, "models": tiny_models, "tmp": tmp_path}
    done = cli(*[part.format(**places) for part in line.split()])
    assert done.code == 2, done
    said = [text for text in done.err.splitlines() if text.startswith("clipguide: ")]
    assert len(said) == 1, done.err
    assert "Traceback" not in done.err
    for word in expected:
        assert word in said[0]
    assert done.out == ""
