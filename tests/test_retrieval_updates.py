"""Updates of the index: what changed is embedded, what does not belong is refused."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_index import Counted, assert_right, update

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.retrieval import WrongModel, open_index
from clipguide.retrieval.filters import parse_filter


def test_only_what_changed_is_embedded(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    first = update(place, photos, tiny_scorer)
    assert (first.items, first.added, first.embedded, Counted.embedded) == (24, 24, 24, 24)
    again = update(place, photos, tiny_scorer)
    assert (again.unchanged, again.embedded, again.added) == (24, 0, 0)
    for number in range(0, 24, 3):  # eight renamed, one of them to another folder
        (photos / f"{number:02}.png").rename(photos / "a" / f"new-{number}.png")
    (photos / "a/01.png").unlink()
    (photos / "a/04.png").unlink()
    Image.new("RGB", (40, 32), "red").save(photos / "a/07.png")
    Image.new("RGB", (40, 32), "blue").save(photos / "more.png")
    (photos / "copy.png").write_bytes((photos / "more.png").read_bytes())
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    report = update(place, photos, tiny_scorer)
    assert (report.renamed, report.removed, report.changed) == (8, 2, 1)
    assert (report.added, report.embedded, Counted.embedded) == (2, 2, 2)
    assert report.unchanged == 13
    assert report.items == 24
    assert list(report.bad) == ["bad.png"]
    assert_right(place, photos, tiny_scorer)


def test_a_bad_file_is_tried_again_when_it_changes(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    good = (photos / "00.png").read_bytes()
    (photos / "00.png").write_bytes(good[:60])
    assert list(update(place, photos, tiny_scorer).bad) == ["00.png"]
    assert list(update(place, photos, tiny_scorer).bad) == ["00.png"]
    (photos / "00.png").write_bytes(good)
    report = update(place, photos, tiny_scorer)
    assert (dict(report.bad), report.added, report.embedded) == ({}, 1, 1)
    (photos / "00.png").write_bytes(b"now bad")
    report = update(place, photos, tiny_scorer)
    assert (list(report.bad), report.items, report.removed) == (["00.png"], 23, 1)
    (photos / "00.png").unlink()
    assert dict(update(place, photos, tiny_scorer).bad) == {}


def test_one_shard_and_six_give_the_same_answers(
    tmp_path: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    for number in (2, 5):  # ties
        (photos / f"tie-{number}.png").write_bytes((photos / f"a/b/{number:02}.png").read_bytes())
    update(tmp_path / "one", photos, tiny_scorer)
    update(tmp_path / "six", photos, tiny_scorer, shard_rows=4, batch_size=4)
    one, six = open_index(tmp_path / "one"), open_index(tmp_path / "six")
    assert (len(one.shards), len(six.shards)) == (1, 6)
    queries = torch.cat([tiny_scorer.encode_text([f"text {i}" for i in range(20)])])
    assert one.search(queries, 9) == six.search(queries, 9)
    big = parse_filter("folder=a")
    assert one.search(queries, 9, where=[big]) == six.search(queries, 9, where=[big])


def test_small_shards_are_merged_and_others_left(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    update(place, photos, tiny_scorer, shard_rows=12, batch_size=12)
    before = {file.name for file in (place / "shards").iterdir()}
    assert len(before) == 2
    for round_ in range(9):
        Image.new("RGB", (40, 32), (round_ * 25, 0, 0)).save(photos / f"more-{round_}.png")
        update(place, photos, tiny_scorer, shard_rows=12)
    after = {file.name for file in (place / "shards").iterdir()}
    assert before < after
    assert len(after) == 3
    assert_right(place, photos, tiny_scorer)


def test_another_model_is_refused(
    place: Path, photos: Path, tiny_scorer: Scorer, tiny_models: Path
) -> None:
    update(place, photos, tiny_scorer)
    judge = load_scorer(tiny_models / "judge")
    with pytest.raises(WrongModel, match="weights"):
        update(place, photos, judge)
    index = open_index(place)
    with pytest.raises(WrongModel, match="weights"):
        index.search(judge.encode_text("x"), scorer=judge)
    index.search(tiny_scorer.encode_text("x"), scorer=tiny_scorer)


def test_another_preprocessing_is_refused(
    place: Path, photos: Path, tiny_models: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(tiny_models / "clip", tmp_path / "other")
    update(place, photos, load_scorer(tiny_models / "clip"))
    settings = tmp_path / "other" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"resample": 3', '"resample": 2'))
    with pytest.raises(WrongModel, match="preprocessing"):
        open_index(place).manifest.check(load_scorer(tmp_path / "other"))


def test_two_writers_are_one_too_many(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    from clipguide.retrieval.catalog import writer_lock

    place.mkdir()
    with writer_lock(place), pytest.raises(ValueError, match="another process"):
        update(place, photos, tiny_scorer)
    update(place, photos, tiny_scorer)


def test_an_empty_folder_does_not_empty_an_index(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    update(place, photos, tiny_scorer)
    photos.rename(photos.with_name("elsewhere"))
    photos.mkdir()
    with pytest.raises(ValueError, match="nothing to index"):
        update(place, photos, tiny_scorer)
    report = update(place, photos.with_name("elsewhere"), tiny_scorer)
    assert (report.unchanged, report.embedded) == (24, 0)
    assert open_index(place).manifest.root == str(photos.with_name("elsewhere").resolve())


def test_content_hashes_are_of_the_files(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    update(place, photos, tiny_scorer)
    with sqlite3.connect(place / "catalog.sqlite") as catalog:
        kept = {row[0] for row in catalog.execute("SELECT hash FROM contents")}
    assert kept == {hashlib.sha256(f.read_bytes()).hexdigest() for f in photos.rglob("*.png")}
