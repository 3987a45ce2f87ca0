"""Vectors in LanceDB: the answers, the updates and the refusals of an index in shards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.retrieval import (
    CaptionFile,
    ImageFolder,
    IndexDamaged,
    UpdateReport,
    WrongModel,
    open_index,
    update_index,
)
from clipguide.retrieval.approximation import measure_approximation
from clipguide.retrieval.catalog import open_catalog
from clipguide.retrieval.check import check_index
from clipguide.retrieval.filters import parse_filter
from clipguide.retrieval.fitting import calibrate_index
from clipguide.retrieval.index import ApproximateIndex
from clipguide.retrieval.manifest import Storage, read_manifest

pytest.importorskip("lancedb", reason="needs lancedb: pip install 'clipguide[index]'")
from clipguide.retrieval import lance

Cli = Callable[..., Outcome]
LANCE = Storage("lancedb")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "photos" / ("", "a")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32)).save(file)
    return tmp_path / "photos"


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "shards", tmp_path / "lancedb"


def update_both(
    both: tuple[Path, Path], photos: Path, scorer: Scorer
) -> tuple[UpdateReport, UpdateReport]:
    source = ImageFolder(photos)
    return update_index(both[0], source, scorer), update_index(
        both[1], source, scorer, storage=LANCE
    )


def assert_same_answers(both: tuple[Path, Path], scorer: Scorer) -> None:
    queries = scorer.encode_text([f"text {number}" for number in range(6)])
    shards, table = (open_index(place) for place in both)
    assert isinstance(table, ApproximateIndex)
    whole = open_index(both[1], exact=True)
    assert len(shards) == len(table) == len(whole)
    some = [parse_filter("folder=a")]
    for index in (table, whole):
        assert index.search(queries, 5) == shards.search(queries, 5)
        assert index.search(queries, 99, where=some) == shards.search(queries, 99, where=some)
        assert index.search(queries, 99, min_p=0.05) == shards.search(queries, 99, min_p=0.05)


def test_updates_and_answers_are_those_of_shards(
    both: tuple[Path, Path], photos: Path, tiny_scorer: Scorer
) -> None:
    """Adds, changes, removals, renames, copies and bad files; ids, cosines and probabilities."""
    update_both(both, photos, tiny_scorer)
    assert_same_answers(both, tiny_scorer)
    (photos / "00.png").rename(photos / "a/renamed.png")
    (photos / "a/01.png").unlink()
    Image.new("RGB", (40, 32), "red").save(photos / "02.png")
    Image.new("RGB", (40, 32), "blue").save(photos / "more.png")
    (photos / "copy.png").write_bytes((photos / "04.png").read_bytes())
    (photos / "bad.png").write_bytes(b"no picture")
    shards, table = update_both(both, photos, tiny_scorer)
    assert asdict(table) | {"seconds": 0} == asdict(shards) | {"seconds": 0}
    assert (table.added, table.changed, table.renamed, table.removed) == (2, 1, 1, 1)
    assert (table.embedded, list(table.bad)) == (2, ["bad.png"])
    assert_same_answers(both, tiny_scorer)
    store = lance.LanceStore(both[1], read_manifest(both[1]))
    with open_catalog(both[1]) as catalog:
        assert sorted(store.ids()) == sorted(catalog.contents().values())
    assert all(finding.ok for finding in check_index(both[1]))


def test_the_fit_is_that_of_shards(
    both: tuple[Path, Path], photos: Path, tiny_scorer: Scorer, tmp_path: Path
) -> None:
    update_both(both, photos, tiny_scorer)
    files = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.png"))
    lines = [f"{name}\tpicture {name} {i}" for name in files for i in range(2)]
    (tmp_path / "c.tsv").write_text("\n".join(["image\tcaption", *lines]))
    fits = [calibrate_index(place, tmp_path / "c.tsv", tiny_scorer) for place in both]
    assert fits[0] == fits[1]
    assert_same_answers(both, tiny_scorer)


@pytest.mark.parametrize("kind", ["ivf_pq", "ivf_sq"])
def test_a_quantised_index_finds_most_of_what_exact_search_finds(
    tmp_path: Path, tiny_scorer: Scorer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(lance, "INDEX_FROM", 256)
    monkeypatch.setattr(lance, "FEW", 0)  # filters go to the index, however few rows they leave
    texts = [f"picture {number} of {number % 7} cats" for number in range(400)]
    rows = [f"{number}.png\t{text}" for number, text in enumerate(texts)]
    (tmp_path / "c.tsv").write_text("\n".join(["image\tcaption", *rows]))
    place = tmp_path / "index"
    report = update_index(
        place, CaptionFile(tmp_path / "c.tsv"), tiny_scorer, storage=Storage("lancedb", "", kind)
    )
    assert report.items == 400
    index, exact = open_index(place), open_index(place, exact=True)
    assert isinstance(index, ApproximateIndex)
    assert index.store.indexed
    found = measure_approximation(index, tiny_scorer)
    assert found is not None
    queries = tiny_scorer.encode_text(["a dog on grass", "2 cats"])
    shares = []
    vectors = tiny_scorer.encode_text(texts).half().double()
    for query, hits, truth in zip(
        queries, index.search(queries, 10), exact.search(queries, 10), strict=True
    ):
        cosines = dict(zip(texts, (vectors @ query.double()).tolist(), strict=True))
        for hit in hits:  # approximate is which are found, not what is said of them
            assert hit.cosine == pytest.approx(cosines[hit.details["text"]], abs=1e-6)
        best = sorted(texts, key=lambda text: -cosines[text])[:10]
        assert [hit.details["text"] for hit in truth] == best
        shares.append(len({hit.details["text"] for hit in hits} & set(best)) / 10)
    assert min(shares) >= 0.7
    assert found.recall >= 0.7
    assert found.queries == 64
    for some in ("text~of 3 cats", "path!=7.png#0"):  # few rows, and nearly all
        where = [parse_filter(some)]
        right = exact.search(queries, 400, where=where)
        shown = index.search(queries, 10, where=where)
        for hits, allowed in zip(shown, right, strict=True):
            assert len(hits) == 10
            assert {hit.path for hit in hits} <= {hit.path for hit in allowed}
    assert index.search(queries, 5, where=[parse_filter("text=nothing")]) == [[], []]


KILLED = """
import os, signal, sys
from pathlib import Path
from clipguide.clip.loading import load_scorer
from clipguide.retrieval import ImageFolder, catalog, update_index
from clipguide.retrieval.manifest import Storage

left, original = [6], catalog.Catalog.add_content

def deadly(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

catalog.Catalog.add_content = deadly
photos, place, model = sys.argv[1:]
update_index(place, ImageFolder(Path(photos)), load_scorer(model), storage=Storage("lancedb"),
             batch_size=4, shard_rows=4)
"""


@pytest.mark.skipif(not hasattr(__import__("signal"), "SIGKILL"), reason="needs kill -9")
def test_a_killed_update_loses_nothing(
    both: tuple[Path, Path], photos: Path, tiny_models: Path, tiny_scorer: Scorer
) -> None:
    """Killed after the vectors of a batch are in the table, before the catalogue knows them."""
    command = [sys.executable, "-c", KILLED, str(photos), str(both[1]), str(tiny_models / "clip")]
    assert subprocess.run(command, check=False).returncode == -9
    store = lance.LanceStore(both[1], read_manifest(both[1]))
    with open_catalog(both[1]) as catalog:
        assert (len(store), catalog.count()) == (8, 4)
    with pytest.raises(IndexDamaged, match="not finished"):
        open_index(both[1])
    _, again = update_both(both, photos, tiny_scorer)
    assert (again.items, again.embedded) == (12, 8)
    assert_same_answers(both, tiny_scorer)
    assert all(finding.ok for finding in check_index(both[1]))


def test_a_reader_does_not_see_rows_that_the_catalogue_does_not_know(
    both: tuple[Path, Path], photos: Path, tiny_scorer: Scorer
) -> None:
    """What a kill leaves in the table takes no place of a hit, however near it is."""
    update_both(both, photos, tiny_scorer)
    store = lance.LanceStore(both[1], read_manifest(both[1]))
    query = tiny_scorer.encode_text(["text 0"])
    store._table.add(store._rows([1000, 1001, 1002], query.repeat(3, 1)))
    assert_same_answers(both, tiny_scorer)
    broken = [finding for finding in check_index(both[1]) if not finding.ok]
    assert not broken  # the next update removes them
    update_both(both, photos, tiny_scorer)
    assert max(lance.LanceStore(both[1], read_manifest(both[1])).ids()) < 1000


def test_a_lost_table_and_another_model_are_refused(
    both: tuple[Path, Path], photos: Path, tiny_scorer: Scorer, tiny_models: Path
) -> None:
    update_both(both, photos, tiny_scorer)
    judge = load_scorer(tiny_models / "judge")
    with pytest.raises(WrongModel, match="weights"):
        update_index(both[1], ImageFolder(photos), judge)
    index = open_index(both[1])
    with pytest.raises(WrongModel, match="weights"):
        index.search(judge.encode_text("x"), scorer=judge)
    with pytest.raises(ValueError, match=r"an index in lancedb .*got shards"):
        update_index(both[1], ImageFolder(photos), tiny_scorer, storage=Storage())
    with pytest.raises(ValueError, match="expected one of ivf_pq, ivf_sq"):
        Storage("lancedb", "", "flat")
    import shutil

    shutil.rmtree(both[1] / lance.FOLDER)
    with pytest.raises(IndexDamaged, match="12 vectors are missing"):
        update_index(both[1], ImageFolder(photos), tiny_scorer)
    assert [finding.name for finding in check_index(both[1]) if not finding.ok] == ["lancedb"]


def test_two_indexes_share_a_database(tmp_path: Path, photos: Path, tiny_scorer: Scorer) -> None:
    storage = Storage("lancedb", str(tmp_path / "database"))
    update_index(tmp_path / "one", ImageFolder(photos), tiny_scorer, storage=storage)
    update_index(tmp_path / "two", ImageFolder(photos / "a"), tiny_scorer, storage=storage)
    update_index(tmp_path / "one", ImageFolder(photos), tiny_scorer)
    assert not (tmp_path / "one" / lance.FOLDER).exists()
    query = tiny_scorer.encode_text("x")
    assert len(open_index(tmp_path / "one").search(query, 99)[0]) == 12
    assert len(open_index(tmp_path / "two").search(query, 99)[0]) == 6


def test_the_command_line(
    cli: Cli, photos: Path, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, model = tmp_path / "i", tiny_models / "clip"
    cli("index", photos, "--to", tmp_path / "s", "--scorer", model)
    made = cli("index", photos, "--to", place, "--scorer", model, "--store", "lancedb", "--json")
    assert made.data["embedded"] == 12
    assert cli("index", photos, "--json", "--to", place).data["unchanged"] == 12
    hits = [
        cli("search", *where, "a", "fox", "--json").data["results"]
        for where in ([tmp_path / "s"], [place], [place, "--exact"])
    ]
    assert hits[0] == hits[1] == hits[2]
    checked = cli("index", "check", place, "--json").data
    assert checked["approximate_recall_at_10"] == 1.0  # no index yet
    assert checked["approximate_recall_against"] == "exact search of the same vectors"
    assert checked["approximate_recall_asked"] == "64 text queries, built-in sentences"
    assert "approximate_recall" not in cli("index", "check", tmp_path / "s").out
    wrong = cli("index", photos, "--to", tmp_path / "x", "--store", "redis")
    assert (wrong.code, "shards, lancedb or lancedb:URI" in wrong.err) == (2, True)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    for line in (["search", place, "x"], ["index", photos, "--to", "n", "--store", "lancedb"]):
        missing = cli(*line)
        assert missing.code == 2
        assert missing.err.splitlines()[-1] == (
            "clipguide: lancedb is not installed: pip install 'clipguide[index]'"
        )


def test_every_partition_is_trained_on_256_rows_and_there_are_no_more_than_rows_in_one() -> None:
    found = [lance.partitions(rows) for rows in (0, 256, 8090, 10**6, 10**8)]
    assert found == [1, 1, 31, 1000, 10_000]
