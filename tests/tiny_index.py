"""Tiny pictures in folders, an index of them, and what it must then hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.report.generated import describe
from clipguide.retrieval import ImageFolder, UpdateReport, open_index, update_index
from clipguide.retrieval.check import check_index
from clipguide.retrieval.index import Index


def noise_photos(folder: Path) -> Path:
    """24 different pictures, some in folders."""
    random = np.random.default_rng(0)
    for number in range(24):
        file = folder / ("", "a", "a/b")[number % 3] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32)).save(file)
    return folder


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
