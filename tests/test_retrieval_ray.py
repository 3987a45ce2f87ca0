"""Embedding on Ray Data workers, on a Ray that runs on this machine."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image

from clipguide.clip.loading import load_scorer
from clipguide.files import sha256_file
from clipguide.report.generated import describe
from clipguide.retrieval import ImageFolder, open_index, ray_engine, update_index
from clipguide.retrieval.engines import Embedder, embed_here
from clipguide.retrieval.ray_engine import ScorerName, embed_on_ray
from clipguide.retrieval.sources import Unreadable

Cli = Callable[..., Outcome]


def entries(place: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(place / "catalog.sqlite") as catalog:
        columns = "path, i.bytes, c.id, hash, width, height, shard, row"
        rows = catalog.execute(
            f"SELECT {columns} FROM items i JOIN contents c ON i.content = c.id ORDER BY path"
        ).fetchall()
        return rows + catalog.execute("SELECT path, reason FROM bad").fetchall()


@pytest.mark.slow
def test_the_index_is_that_of_one_process(tmp_path: Path, tiny_models: Path) -> None:
    """A first update and one after changes: entries, ids, places, vectors and reports."""
    pytest.importorskip("ray.data", reason="needs ray: pip install 'clipguide[scale]'")
    photos = tmp_path / "photos"
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(40):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(photos / f"{number:02}.png")
    (photos / "copy.png").write_bytes((photos / "03.png").read_bytes())
    (photos / "bad.png").write_bytes(b"no picture")
    scorer, source = load_scorer(tiny_models / "clip"), ImageFolder(photos, describe)
    for more in (False, True):
        if more:
            (photos / "05.png").rename(photos / "renamed.png")
            (photos / "06.png").unlink()
            Image.new("RGB", (32, 32), "red").save(photos / "07.png")
        here = update_index(tmp_path / "here", source, scorer, batch_size=4)
        ray = update_index(tmp_path / "ray", source, scorer, batch_size=4, engine=embed_on_ray)
        copies = {"seconds": 0, "embedded": 0}  # each worker embeds a copy that another has
        assert asdict(ray) | copies == asdict(here) | copies
        assert here.embedded <= ray.embedded <= here.embedded + (not more)
        assert entries(tmp_path / "ray") == entries(tmp_path / "here")
        one, other = open_index(tmp_path / "here"), open_index(tmp_path / "ray")
        vectors = [torch.cat([shard.vectors for shard in i.shards]) for i in (one, other)]
        assert torch.allclose(vectors[0].float(), vectors[1].float(), atol=1e-3)
    assert list(ray.bad) == ["bad.png"]


def test_without_ray_it_is_one_line(
    cli: Cli, tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    for module in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, module, None)
    done = cli("index", tmp_path, "--scorer", tiny_models / "clip", "--engine", "ray")
    assert done.code == 2
    assert done.err == "clipguide: ray is not installed: pip install 'clipguide[scale]'\n"


def test_a_worker_gives_what_this_process_gives(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task done without Ray, its rows sent through Arrow as Ray sends them."""
    monkeypatch.chdir(tmp_path)  # a worker goes to its folder
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'clipguide[scale]'")
    random = np.random.default_rng(0)
    for number in range(5):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    scorer, source = load_scorer(tiny_models / "clip"), ImageFolder(tmp_path, describe)
    paths = list(source.scan())
    known = frozenset({sha256_file(tmp_path / "3.png")})
    named = ScorerName(scorer.name, scorer.content_hash, "cpu")
    embedder_of = partial(Embedder, source, batch_size=2, readers=1)
    rows = ray_engine._Worker(str(tmp_path), named, embedder_of, known)({"paths": paths})
    sent = [ray_engine._done(row) for row in arrow.Table.from_pylist(rows).to_pylist()]
    groups = embed_here(embedder_of(scorer), paths, ray_engine._Snapshot(known))
    here = [done for group in groups for done in group]
    assert [done.path for done in sent] == paths
    for one, other in zip(sent, here, strict=True):
        if isinstance(other.read, Unreadable):
            assert str(one.read) == str(other.read)
        else:
            assert one.read == other.read
        assert (one.vector is None) == (other.vector is None) == (one.path in ("3.png", "bad.png"))
        assert one.vector is None or torch.allclose(one.vector, other.vector, atol=1e-6)
    other_weights = replace(named, content_hash="0" * 64)
    with pytest.raises(ValueError, match="other weights"):
        ray_engine._Worker(str(tmp_path), other_weights, embedder_of, known)
