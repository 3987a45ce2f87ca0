"""The index: incremental updates, damage, filters, search through the library."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.report.generated import describe
from clipguide.retrieval import (
    CaptionFile,
    ImageFolder,
    IndexDamaged,
    UpdateReport,
    WrongModel,
    open_index,
    stores,
    update_index,
)
from clipguide.retrieval.catalog import Catalog, open_catalog
from clipguide.retrieval.check import check_index
from clipguide.retrieval.duplicates import find_duplicates
from clipguide.retrieval.filters import parse_filter
from clipguide.retrieval.index import Index

Touch = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 different pictures, some in folders."""
    random = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "photos" / ("", "a", "a/b")[number % 3] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32)).save(file)
    return tmp_path / "photos"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "index"


class Counted(ImageFolder):
    """An image folder that counts what it embeds."""

    embedded = 0

    def embed(self, payloads: Sequence[Tensor | str], scorer: Scorer) -> Tensor:
        Counted.embedded += len(payloads)
        return super().embed(payloads, scorer)


def update(place: Path, photos: Path, scorer: Scorer, **options: int) -> UpdateReport:
    Counted.embedded = 0
    return update_index(place, Counted(photos, describe), scorer, **options)


def stored(index: Index) -> dict[str, Tensor]:
    """Path -> vector of every item, by a search of everything."""
    ids = torch.cat([shard.ids for shard in index.shards]).tolist()
    rows = torch.cat([shard.vectors for shard in index.shards]).float()
    vectors = dict(zip(ids, rows, strict=True))
    hits = index.search(torch.eye(index.manifest.embed_dim)[0], 10_000)[0]
    return {hit.path: vectors[hit.id] for hit in hits}


def assert_right(place: Path, photos: Path, scorer: Scorer) -> None:
    """Every image that can be read, and nothing else, with the vector the scorer gives it."""
    found = stored(open_index(place))
    files = {f.relative_to(photos).as_posix(): f for f in photos.rglob("*.png")}
    good = {name: file for name, file in files.items() if "bad" not in name}
    assert set(found) == set(good)
    expected = scorer.encode_image([*good.values()])
    for vector, name in zip(expected, good, strict=True):
        assert torch.allclose(found[name], vector, atol=1e-3)
    assert all(finding.ok for finding in check_index(place))


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


def killed_after(calls: int, owner: object, name: str, update_: Callable[[], object]) -> None:
    """Run `update_` in a process of its own that is killed (-9) in a call of `owner.name`."""
    if (child := os.fork()) == 0:
        left, original = [calls], getattr(owner, name)

        def deadly(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, deadly)
        update_()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("owner", "name", "calls", "kept"),
    [
        (Counted, "embed", 0, 0),
        (Counted, "embed", 4, 16),
        (stores, "write_shard", 3, 12),
        (Catalog, "add_content", 10, 8),
        (Catalog, "set_item", 10, 12),
        (Catalog, "remove_orphans", 0, 24),
    ],
)
def test_a_killed_update_loses_nothing(
    place: Path,
    photos: Path,
    tiny_scorer: Scorer,
    owner: object,
    name: str,
    calls: int,
    kept: int,
) -> None:
    options = {"batch_size": 4, "shard_rows": 4}
    killed_after(calls, owner, name, lambda: update(place, photos, tiny_scorer, **options))
    with pytest.raises(IndexDamaged, match="not finished"):
        open_index(place)
    assert update(place, photos, tiny_scorer, **options).embedded == 24 - kept
    known = {file.name for file in (place / "shards").iterdir()}
    with open_catalog(place) as catalog:
        assert known == {shard.file for shard in catalog.shards()}
    assert_right(place, photos, tiny_scorer)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_second_update_leaves_an_index_that_answers(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    update(place, photos, tiny_scorer)
    for number in range(8):
        Image.new("RGB", (40, 32), (number * 30, 0, 0)).save(photos / f"more-{number}.png")
    options = {"batch_size": 2, "shard_rows": 4}
    killed_after(5, Catalog, "add_content", lambda: update(place, photos, tiny_scorer, **options))
    query = tiny_scorer.encode_text("x")
    assert 24 <= len(open_index(place).search(query, 99)[0]) < 32
    assert update(place, photos, tiny_scorer, **options).embedded == 4
    assert_right(place, photos, tiny_scorer)


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


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_damage_is_found_and_named(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    update(place, photos, tiny_scorer)
    (shard,) = (place / "shards").iterdir()
    whole = shard.read_bytes()
    flip(shard, len(whole) // 2)
    with pytest.raises(IndexDamaged, match=f"{shard.name}: the checksum is wrong"):
        open_index(place)
    assert [one.name for one in check_index(place) if not one.ok] == ["shard 1"]
    shard.unlink()
    with pytest.raises(IndexDamaged, match="lost"):
        open_index(place)
    shard.write_bytes(whole)
    open_index(place)
    with sqlite3.connect(place / "catalog.sqlite") as catalog:
        catalog.execute("UPDATE notes SET data = x'00' WHERE name = 'null distribution'")
    with pytest.raises(IndexDamaged, match="null distribution"):
        open_index(place)
    (place / "catalog.sqlite").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(IndexDamaged, match="not a database"):
        open_index(place)
    (place / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match="manifest is damaged"):
        open_index(place)
    (place / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no index there"):
        open_index(place)


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


FILTERS = {
    "folder=a": lambda f: "photos/a/" in str(f),
    "folder!=a/b": lambda f: "photos/a/b/" not in str(f),
    "name=03.png": lambda f: f.name == "03.png",
    "name~1": lambda f: "1" in f.name,
    "path~B/": lambda f: "/b/" in str(f),
    "width>=40": lambda _: True,
    "height<32": lambda _: False,
    "date=2024-05-01": lambda f: f.name == "00.png",
    "date<2024-05-02": lambda f: f.name == "00.png",
    "date>2024-05-01": lambda f: f.name != "00.png",
    "date>=2024-05-01T12:00": lambda f: f.name != "00.png",
    "prompt~RED": lambda f: f.name in ("gen-1.png", "gen-2.png"),
    "seed=7": lambda f: f.name == "gen-1.png",
    "seed>=7": lambda f: f.name in ("gen-1.png", "gen-2.png"),
    "score>0.25": lambda f: f.name == "gen-1.png",
    "negative=blur": lambda f: f.name == "gen-2.png",
}


def generated(photos: Path) -> None:
    """One picture of ours and one of AUTOMATIC1111's web UI."""
    ours, theirs = PngInfo(), PngInfo()
    record = '{"prompt": "a red fox", "negative": "", "seed": 7, "scores": [{"value": 0.3}]}'
    ours.add_text("clipguide", record)
    text = "a Red cat\nNegative prompt: blur\nSteps: 20, Sampler: Euler, Seed: 11"
    theirs.add_text("parameters", text)
    Image.new("RGB", (40, 32), "red").save(photos / "gen-1.png", pnginfo=ours)
    Image.new("RGB", (40, 32), "pink").save(photos / "gen-2.png", pnginfo=theirs)


def test_filters_on_metadata(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    from datetime import datetime

    generated(photos)
    moment = datetime(2024, 5, 1, 11, 30).timestamp()
    os.utime(photos / "00.png", (moment, moment))
    update(place, photos, tiny_scorer)
    index = open_index(place)
    files = list(photos.rglob("*.png"))
    query = tiny_scorer.encode_text("x")
    sizes = {f"size<{file.stat().st_size}": file.stat().st_size for file in files[:1]}
    for text, limit in sizes.items():
        found = {hit.path for hit in index.search(query, 99, where=[parse_filter(text)])[0]}
        small = [file for file in files if file.stat().st_size < limit]
        assert found == {file.relative_to(photos).as_posix() for file in small}
    whole = index.search(query, 99)[0]
    for text, truth in FILTERS.items():
        hits = index.search(query, 99, where=[parse_filter(text)])[0]
        names = [file.relative_to(photos).as_posix() for file in files if truth(file)]
        assert sorted(hit.path for hit in hits) == sorted(names), text
        assert hits == [hit for hit in whole if hit.path in names]  # order and numbers unchanged
    both = [parse_filter("prompt~red"), parse_filter("seed=11")]
    assert [hit.path for hit in index.search(query, 99, where=both)[0]] == ["gen-2.png"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("size", "expected FIELD"),
        ("colour=red", "expected one of date, size"),
        ("size<big", "a size like 500KB"),
        ("width~3", "expected one of = !="),
        ("seed=1.5", "a whole number"),
        ("score>x", "a number"),
        ("date>yesterday", "a date like"),
        ("prompt>a", "expected one of = != ~"),
        ("folder<a", "expected one of = !="),
    ],
)
def test_filters_that_make_no_sense(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_filter(text)


def test_an_image_finds_its_captions(
    place: Path, photos: Path, tmp_path: Path, tiny_scorer: Scorer
) -> None:
    file = tmp_path / "captions.tsv"
    texts = [f"picture number {i}" for i in range(12)]
    rows = [f"{i // 2:02}.png\t{text}" for i, text in enumerate(texts)]
    file.write_text("\n".join(["image\tcaption", *rows]))
    assert update_index(place, CaptionFile(file), tiny_scorer).embedded == 12
    query = tiny_scorer.encode_image([photos / "00.png"])
    hits = open_index(place).search(query, 3)[0]
    cosines = (tiny_scorer.encode_text(texts) @ query[0]).tolist()
    order = sorted(range(12), key=lambda i: -cosines[i])[:3]
    assert [hit.details["text"] for hit in hits] == [texts[i] for i in order]
    assert [hit.path for hit in hits] == [f"{i // 2:02}.png#{i % 2}" for i in order]
    file.write_text("\n".join(["image\tcaption", *rows[:11], "05.png\tanother text"]))
    report = update_index(place, CaptionFile(file), tiny_scorer)
    assert (report.changed, report.embedded, report.unchanged) == (1, 1, 11)
    with pytest.raises(ValueError, match="an index of captions, got images"):
        update_index(place, ImageFolder(photos), tiny_scorer)


def test_near_duplicates_are_the_pairs_above_the_threshold(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    Image.open(photos / "00.png").resize((80, 64)).save(photos / "large.png")
    (photos / "same.png").write_bytes((photos / "a/01.png").read_bytes())
    update(place, photos, tiny_scorer)
    files = sorted(photos.rglob("*.png"))
    cosines = (vectors := tiny_scorer.encode_image(files)) @ vectors.T
    for threshold in (0.999, 0.9):
        groups = find_duplicates(open_index(place), threshold)
        names = [file.relative_to(photos).as_posix() for file in files]
        linked = {frozenset({name}) for name in names}
        for i, j in (cosines.triu(1) >= threshold).nonzero().tolist():  # slow union
            one = next(s for s in linked if names[i] in s)
            other = next(s for s in linked if names[j] in s)
            linked = linked - {one, other} | {one | other}
        assert {frozenset(group.paths) for group in groups} == {s for s in linked if len(s) > 1}
    exact = [group for group in groups if set(group.paths) == {"a/01.png", "same.png"}]
    assert not exact or exact[0].cosine == 1.0
    with pytest.raises(ValueError, match="threshold"):
        find_duplicates(open_index(place), 0)


@pytest.mark.parametrize(
    ("query", "options", "word"),
    [
        (torch.ones(3), {}, "expected"),
        (torch.full((16,), torch.nan), {}, "NaN"),
        (torch.ones(16), {"top_k": 0}, "top_k 0"),
        (torch.ones(16), {"min_p": 1.5}, "min_p 1.5"),
    ],
)
def test_searches_that_make_no_sense(
    place: Path,
    photos: Path,
    tiny_scorer: Scorer,
    query: Tensor,
    options: dict[str, float],
    word: str,
) -> None:
    update(place, photos, tiny_scorer)
    with pytest.raises(ValueError, match=word):
        open_index(place).search(query, **options)  # type: ignore[arg-type]


def test_content_hashes_are_of_the_files(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    update(place, photos, tiny_scorer)
    with sqlite3.connect(place / "catalog.sqlite") as catalog:
        kept = {row[0] for row in catalog.execute("SELECT hash FROM contents")}
    assert kept == {hashlib.sha256(f.read_bytes()).hexdigest() for f in photos.rglob("*.png")}
