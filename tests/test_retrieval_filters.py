"""Filters on metadata, against the files themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny_index import update

from clipguide.clip.scorer import Scorer
from clipguide.retrieval import open_index
from clipguide.retrieval.filters import parse_filter

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
