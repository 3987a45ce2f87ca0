"""`clipguide filter`: what each rule keeps, where it is written, how a stopped run goes on."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from PIL import Image
from safetensors.torch import save_file
from tiny_safety import saved_checker
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.images import load_image
from clipguide.language.safety import load_safety_checker
from clipguide.retrieval import open_index
from clipguide.retrieval.items import items_of

Cli = Callable[..., Outcome]


@pytest.fixture(scope="module")
def scorer(clip_dir: Path) -> Scorer:
    return load_scorer(clip_dir)


def names_of(photos: Path) -> list[str]:
    return sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))


def vectors_of(scorer: Scorer, photos: Path) -> Tensor:
    with torch.no_grad():
        return scorer.encode_image([photos / name for name in names_of(photos)])


def kept_of(done: Outcome, file: Path, photos: Path) -> list[str]:
    assert done.code == 0, done.err
    return [Path(line).relative_to(photos).as_posix() for line in file.read_text().splitlines()]


def test_phrases_keep_what_is_nearer_to_them(
    cli: Cli, photos: Path, clip_dir: Path, scorer: Scorer, tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in photos.rglob("*") if file.is_file()}
    phrases = ["--keep", "a dog", "--keep", "a cat", "--drop", "a red car", "--margin", "0.001"]
    out, page = tmp_path / "kept.txt", tmp_path / "page.html"
    options = ["--scorer", clip_dir, "--out", out, "--page", page, "--json"]
    done = cli("filter", photos, *phrases, *options)
    texts = scorer.encode_text(["a dog", "a cat", "a red car"])
    cosines = vectors_of(scorer, photos) @ texts.T
    margin = cosines[:, :2].amax(dim=1) - cosines[:, 2]
    wanted = [n for n, m in zip(names_of(photos), margin.tolist(), strict=True) if m >= 0.001]
    assert 0 < len(wanted) < 24
    assert kept_of(done, out, photos) == wanted
    assert done.data["kept"] == len(wanted)
    rule = done.data["rules"][0]
    assert (rule["rule"], rule["threshold"], rule["dropped"]) == (
        "phrases",
        0.001,
        24 - len(wanted),
    )
    assert rule["keeps"].startswith("'a dog' or 'a cat' over 'a red car', margin >= 0.001")
    text = page.read_text()
    assert "default-src &#x27;none&#x27;" in text
    assert "just dropped" in text
    assert text.count("<img") == min(12, len(wanted)) + min(12, 24 - len(wanted))
    assert {f: f.read_bytes() for f in photos.rglob("*.png")} == before  # nothing is moved or gone


def test_captions_agree_by_a_stated_model_and_a_repeat_needs_nothing_new(
    cli: Cli, photos: Path, clip_dir: Path, scorer: Scorer, tmp_path: Path
) -> None:
    texts = {"00.png": ["a dog", "two red cars"], "03.png": ["a cat"], "a/01.png": ["a dog runs"]}
    table = photos / "captions.csv"
    rows = [f"{name},{text}" for name, own in texts.items() for text in own]
    table.write_text("\n".join(["image,caption", *rows, "gone.png,a cat"]) + "\n")
    pairs = [(name, text) for name, own in texts.items() for text in own]
    with torch.no_grad():
        cosines = [float(scorer.similarity([photos / n], [t])[0, 0]) for n, t in pairs]
    gaps = itertools.pairwise(sorted(cosines))  # what is kept of a vector has half precision
    least = sum(max(gaps, key=lambda gap: gap[1] - gap[0])) / 2
    out = tmp_path / "all.csv"
    options = ["--scorer", clip_dir, "--min-agreement", least]
    done = cli("filter", table, *options, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.data["images"] == 3  # not the 21 others of the folder
    assert str(clip_dir) in done.data["rules"][0]["keeps"]
    with out.open() as opened:
        kept = [
            (Path(row["image"]).relative_to(photos).as_posix(), row["caption"])
            for row in csv.DictReader(opened) if row["keep"] == "yes"
        ]  # fmt: skip
    near = dict(zip(pairs, cosines, strict=True))
    assert sorted(kept) == sorted(pair for pair in pairs if near[pair] >= least)
    again = cli("filter", table, *options, "--json")
    assert again.data["kept"] == done.data["kept"]
    wrong = cli("filter", table, *options, "--images", photos / "00.png")
    assert f"got --images {photos / '00.png'}, expected a folder" in wrong.err


def test_texts_beside_pictures_are_captions(
    cli: Cli, photos: Path, clip_dir: Path, tmp_path: Path
) -> None:
    none = cli("filter", photos, "--scorer", clip_dir, "--min-agreement", "0.28")
    assert none.code == 2
    assert "no image has a text beside it" in none.err
    (photos / "00.txt").write_text("a dog\n")
    out = tmp_path / "x.jsonl"
    done = cli("filter", photos, "--scorer", clip_dir, "--min-agreement", "-1", "--out", out)
    assert "23 images have no caption and are dropped by that rule" in done.err
    assert "1 of 24 images kept" in done.out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["caption"] for row in rows if row["keep"]] == ["a dog"]
    assert [row["agreement"] for row in rows if not row["keep"]] == [None] * 23


def test_ratings_sizes_filters_and_repeats(
    cli: Cli, photos: Path, clip_dir: Path, scorer: Scorer, tmp_path: Path
) -> None:
    load_image(photos / "00.png").resize((80, 64)).save(photos / "large.png")
    shutil.copy(photos / "03.png", photos / "copy.png")
    head = {"weight": torch.randn(1, scorer.embed_dim), "bias": torch.zeros(1)}
    save_file(head, tmp_path / "head.safetensors")
    ratings = (vectors_of(scorer, photos) @ head["weight"].T)[:, 0]
    middle = float(ratings.median()) - 1e-4
    out = tmp_path / "x.jsonl"
    done = cli(
        "filter", photos, "--scorer", clip_dir, "--min-aesthetic", middle, "--head",
        tmp_path / "head.safetensors", "--duplicates", "0.9999", "--min-side", "33",
        "--where", "name!=large.png", "--out", out, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = {Path(row["image"]).relative_to(photos).as_posix(): row
            for row in map(json.loads, out.read_text().splitlines())}  # fmt: skip
    for name, rating in zip(names_of(photos), ratings.tolist(), strict=True):
        assert rows[name]["aesthetic"] == pytest.approx(rating, abs=0.02)
        dropped = rows[name]["dropped_by"]
        if abs(rating - middle) > 0.02:
            assert ("aesthetic" in dropped) == (rating < middle)
        assert ("side" in dropped.split()) == (name != "large.png")
        assert ("where name!=large.png" in dropped) == (name == "large.png")
    assert "duplicates" in rows["copy.png"]["dropped_by"]  # 03.png comes before it
    assert "duplicates" not in rows["03.png"]["dropped_by"]
    assert done.data["kept"] == 0
    assert {one["rule"]: one["dropped"] for one in done.data["rules"]}["side"] == 25
    rules = ["--duplicates", "0.9999", "--where", "name!=03.png"]
    again = cli("filter", photos, "--scorer", clip_dir, *rules, "--out", tmp_path / "x.txt")
    kept = kept_of(again, tmp_path / "x.txt", photos)
    assert "copy.png" in kept  # it repeats what another rule drops
    assert "03.png" not in kept


def test_examples_pick_the_threshold(
    cli: Cli, photos: Path, clip_dir: Path, scorer: Scorer, tmp_path: Path
) -> None:
    texts = scorer.encode_text(["a dog", "a red car"])
    cosines = vectors_of(scorer, photos) @ texts.T
    margin = dict(zip(names_of(photos), (cosines[:, 0] - cosines[:, 1]).tolist(), strict=True))
    order = sorted(margin, key=lambda name: margin[name])
    labels = tmp_path / "labels.tsv"
    told = {order[2]: "no", order[6]: "no", order[12]: "yes", order[20]: "yes"}
    labels.write_text("image\tkeep\n" + "".join(f"{n}\t{k}\n" for n, k in told.items()))
    phrases = ["--keep", "a dog", "--drop", "a red car", "--scorer", clip_dir, "--labels", labels]
    done = cli("filter", photos, *phrases, "--json")
    assert done.code == 0, done.err
    picked = done.data["rules"][0]["picked"]
    assert picked["threshold"] == pytest.approx(
        (margin[order[6]] + margin[order[12]]) / 2, abs=1e-3
    )
    assert (picked["precision"], picked["recall"], picked["examples"]) == (1.0, 1.0, 4)
    assert "picked from 4 examples: precision 1.000" in cli("filter", photos, *phrases).out
    swapped = {"yes": "no", "no": "yes"}
    labels.write_text("image\tkeep\n" + "".join(f"{n}\t{swapped[k]}\n" for n, k in told.items()))
    refused = cli("filter", photos, *phrases)
    assert refused.code == 2
    assert "--labels for phrases: " in refused.err
    assert "between no two of them lies a threshold" in refused.err


def test_copies_and_their_texts(cli: Cli, photos: Path, clip_dir: Path, tmp_path: Path) -> None:
    (photos / "00.txt").write_text("a dog\n")
    rules = ["--where", "folder=a", "--scorer", clip_dir, "--copy", tmp_path / "kept"]
    done = cli("filter", photos, *rules, "--json")
    assert done.data["copied"] == 16
    found = sorted(p.relative_to(tmp_path / "kept").as_posix()
                   for p in (tmp_path / "kept").rglob("*") if p.is_file())  # fmt: skip
    assert found == [name for name in names_of(photos) if name.startswith("a/")]
    assert cli("filter", photos, *rules, "--json").data["copied"] == 0
    Image.new("RGB", (9, 9)).save(tmp_path / "kept" / "a" / "01.png")
    out = tmp_path / "kept.txt"  # the last that is written: the same command goes on
    refused = cli("filter", photos, *rules, "--out", out)
    assert "got other files there, which are kept" in refused.err
    assert not out.exists()
    inside = cli("filter", photos, *rules[:-1], photos / "kept")
    assert f"got {photos / 'kept'} inside {photos}" in inside.err


def test_the_safety_checker_by_name_goes_on_where_it_stopped(
    cli: Cli, photos: Path, clip_dir: Path, tmp_path: Path
) -> None:
    checker = saved_checker(tmp_path / "checker")
    files = [photos / name for name in names_of(photos)]
    wanted = load_safety_checker(str(checker))([load_image(file) for file in files]).tolist()
    assert 0 < sum(wanted) < 24
    options = ["--scorer", clip_dir, "--safety", checker]
    done = cli("filter", photos, *options, "--out", tmp_path / "x.txt", "--json")
    kept = kept_of(done, tmp_path / "x.txt", photos)
    assert kept == [n for n, bad in zip(names_of(photos), wanted, strict=True) if not bad]
    cache = photos / ".clipguide-index-safety.jsonl"
    lines = cache.read_text().splitlines(keepends=True)
    assert len(lines) == 24
    cache.write_text("".join(lines[:9]) + lines[9][:30])  # killed in the middle of a line
    again = cli("filter", photos, *options, "--json")
    assert again.data["kept"] == len(kept)
    assert len(cache.read_text().splitlines()) == 25  # 15 were looked at again


def test_the_index_is_that_of_index_and_search(cli: Cli, photos: Path, clip_dir: Path) -> None:
    assert cli("index", photos, "--scorer", clip_dir).code == 0
    done = cli("filter", photos, "--min-side", "1", "--json")  # the index's own scorer
    assert done.data["scorer"] == str(clip_dir)
    items = items_of(open_index(photos / ".clipguide-index"))
    assert list(items.paths) == names_of(photos)
    (photos / "bad.png").write_bytes(b"not a picture")
    assert "bad.png" in cli("filter", photos, "--min-side", "1", "--json").data["bad"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "got no rule: give --keep and --drop"),
        (["--keep", "a dog"], "got --keep alone, expected --drop with it"),
        (["--keep", "x", "--drop", "x"], "got 'x' in --keep and in --drop"),
        (["--min-aesthetic", "5"], "give --min-aesthetic and --head together"),
        (["--duplicates", "1.2"], "got --duplicates 1.2, expected a cosine in (0, 1]"),
        (["--min-agreement", "nan"], "got --min-agreement nan, expected a number or auto"),
        (["--min-agreement", "auto"], "got a threshold auto, expected --labels FILE"),
        (["--min-side", "9", "--labels", "x.csv"], "got --labels and no threshold to pick"),
        (["--min-side", "9", "--out", "x.docx"], "expected a name that ends with .txt, .csv"),
        (["--min-side", "9", "--page", "x.png"], "expected a name that ends with .html"),
        (["--min-side", "9", "--images", "."], "got a folder and --images"),
        (["--min-side", "9", "--margin", "0.1"], "expected --keep and --drop with them"),
        (["--min-side", "9", "--where", "nonsense"], "got filter 'nonsense'"),
        (["--min-aesthetic", "5", "--head", "none.safetensors"], "none.safetensors"),
        (["--safety", "."], "expected model.safetensors"),
        (["--keep", "x", "--drop", "y", "--labels", "none.csv"], "none.csv: no such file"),
    ],
)
def test_mistakes_are_one_line(
    cli: Cli, photos: Path, clip_dir: Path, options: list[str], told: str
) -> None:
    done = cli("filter", photos, "--scorer", clip_dir, *options)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1
    assert not (photos / ".clipguide-index").exists()  # nothing was embedded for it


def test_what_is_there_is_not_written_over(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("mine")
    done = cli("filter", photos, "--min-side", "9", "--out", tmp_path / "x.csv")
    assert done.code == 2
    assert "which is there and is kept" in done.err
    assert (tmp_path / "x.csv").read_text() == "mine"
