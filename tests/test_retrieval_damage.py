"""The index after kill -9 and after damage: nothing is lost, everything is named."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_index import Counted, assert_right, update

from clipguide.clip.scorer import Scorer
from clipguide.retrieval import IndexDamaged, open_index, stores
from clipguide.retrieval.catalog import Catalog, open_catalog
from clipguide.retrieval.check import check_index


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
