"""What fails for a while, what is interrupted, moved, or updated while it is searched."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_index import assert_right, update
from torch import Tensor

from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.retrieval import ImageFolder, open_index, update_index
from clipguide.retrieval.catalog import writer_lock
from clipguide.retrieval.filters import parse_filter
from clipguide.retrieval.sources import Read

Cli = Callable[..., Outcome]


class Failing(ImageFolder):
    """An image folder whose machine fails at some names."""

    failures: Mapping[str, BaseException] = {}

    def read(self, path: str, known: Callable[[str], bool], preprocess: Preprocess) -> Read:
        if path in self.failures:

            def describe(file: Path) -> dict[str, object]:
                raise self.failures[path]

            return ImageFolder(self.root, describe).read(path, known, preprocess)
        return super().read(path, known, preprocess)


def test_a_passing_failure_bans_no_image(
    place: Path, photos: Path, tiny_scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory or the disk failed: tried again, though the file has not changed."""
    failures = {"00.png": OSError(errno.EIO, "Input/output error"), "03.png": MemoryError()}
    monkeypatch.setattr(Failing, "failures", failures)
    (photos / "bad.png").write_bytes(b"no picture")
    report = update_index(place, Failing(photos), tiny_scorer)
    assert dict(report.bad).keys() == {"00.png", "03.png", "bad.png"}
    assert (report.bad["00.png"], report.bad["03.png"]) == ("Input/output error", "out of memory")
    monkeypatch.setattr(Failing, "failures", {})
    report = update_index(place, Failing(photos), tiny_scorer)
    assert (report.added, report.embedded, list(report.bad)) == (2, 2, ["bad.png"])
    (photos / "bad.png").unlink()
    update(place, photos, tiny_scorer)
    assert_right(place, photos, tiny_scorer)


class Broken(ImageFolder):
    """An image folder one of whose pictures has no vector."""

    def embed(self, payloads: object, scorer: Scorer) -> Tensor:
        vectors = super().embed(payloads, scorer)  # type: ignore[arg-type]
        vectors[0, 0] = torch.nan
        return vectors


def test_a_vector_that_is_not_finite_is_refused_by_name(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    first = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))[0]
    with pytest.raises(ValueError, match=f"{first}: the model gives a vector with NaN"):
        update_index(place, Broken(photos), tiny_scorer)
    assert update(place, photos, tiny_scorer).items == 24


class Interrupted(ImageFolder):
    """An image folder in whose third batch somebody presses Ctrl-C."""

    batches = 0

    def embed(self, payloads: object, scorer: Scorer) -> Tensor:
        Interrupted.batches += 1
        if Interrupted.batches == 3:
            raise KeyboardInterrupt
        return super().embed(payloads, scorer)  # type: ignore[arg-type]


def test_an_interruption_says_what_is_kept(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    options = {"batch_size": 4, "shard_rows": 4}
    with pytest.raises(KeyboardInterrupt, match="8 of 24 new or changed items are kept"):
        update_index(place, Interrupted(photos), tiny_scorer, **options)
    assert update(place, photos, tiny_scorer, **options).embedded == 16
    assert_right(place, photos, tiny_scorer)


def test_an_index_moved_with_its_folder_finds_its_pictures(
    photos: Path, tiny_scorer: Scorer, tiny_models: Path, cli: Cli, tmp_path: Path
) -> None:
    inside, beside = photos / ".clipguide-index", photos.parent / "photos.index"
    for place in (inside, beside):
        update(place, photos, tiny_scorer)
    shutil.copytree(photos, tmp_path / "copy")  # the old one is still there
    hits = cli("search", tmp_path / "copy", "a dog", "--json").data["results"][0]["hits"]
    assert all(Path(hit["path"]).is_relative_to(tmp_path / "copy") for hit in hits)
    elsewhere = tmp_path / "project"
    elsewhere.mkdir()
    photos.rename(elsewhere / photos.name)
    beside.rename(elsewhere / "photos.index")
    hits = cli("search", elsewhere / "photos.index", "a dog", "--json").data["results"][0]["hits"]
    assert len(hits) == 10
    assert all(Path(hit["path"]).is_file() for hit in hits)
    report = update(elsewhere / "photos.index", elsewhere / photos.name, tiny_scorer)
    assert (report.unchanged, report.embedded) == (24, 0)


def test_a_name_that_is_not_utf8_is_an_item(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (40, 32), "red").save(photos / "new.png")
        (photos / "new.png").rename(photos / name)
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    update(place, photos, tiny_scorer)
    query = tiny_scorer.encode_image([photos / name])[0]
    first = open_index(place).search(query, 1)[0][0]
    assert first.path == name
    assert (photos / first.path).is_file()
    hits = open_index(place).search(query, 99, where=[parse_filter("name~caf")])[0]
    assert [hit.path for hit in hits] == [name]
    assert update(place, photos, tiny_scorer).unchanged == 25
    (photos / name).unlink()
    assert update(place, photos, tiny_scorer).removed == 1


def test_what_is_open_stays_as_it_was_while_it_is_updated(
    place: Path, photos: Path, tiny_scorer: Scorer
) -> None:
    update(place, photos, tiny_scorer, shard_rows=4)
    opened = open_index(place)
    query = tiny_scorer.encode_text("x")
    before = opened.search(query, 99)
    for file in sorted(photos.rglob("*.png"))[:12]:
        file.unlink()
    Image.new("RGB", (40, 32), "red").save(photos / "new.png")
    update(place, photos, tiny_scorer, shard_rows=4)
    assert opened.search(query, 99) == before
    assert len(open_index(place).search(query, 99)[0]) == 13


def test_a_second_update_at_once_is_refused(place: Path, photos: Path, tiny_scorer: Scorer) -> None:
    update(place, photos, tiny_scorer)
    with writer_lock(place), pytest.raises(ValueError, match="another process is updating"):
        update(place, photos, tiny_scorer)
    assert_right(place, photos, tiny_scorer)


def test_a_full_disk_leaves_the_index_as_it_was(
    place: Path, photos: Path, tiny_scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(place, photos, tiny_scorer)
    Image.new("RGB", (40, 32), "red").save(photos / "new.png")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            update(place, photos, tiny_scorer)
    assert len(open_index(place)) == 24
    assert update(place, photos, tiny_scorer).embedded == 1
    assert_right(place, photos, tiny_scorer)
