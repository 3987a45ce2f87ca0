"""Damage an index in every way there is, and ask it: the right answer or a named error, never more.

By hand: `python tests/index_mutations.py 2000` (about two minutes); the suite runs a few of them.
The truth are the answers of the index before it was touched.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipguide.clip.scorer import Scorer
from clipguide.report.generated import describe
from clipguide.retrieval import ImageFolder, Index, open_index, update_index
from clipguide.retrieval.check import check_index

Answers = list[list[tuple[str, float, float]]]
Mutation = Callable[[Path, Path, random.Random], str]


def make(folder: Path, scorer: Scorer, seed: int, count: int = 40) -> Path:
    """Pictures, and an index of them after two updates."""
    draw = np.random.default_rng(seed)
    photos = folder / "photos"
    for number in range(count):
        file = photos / ("", "a", "b")[number % 3] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 32)).save(file)
        if number == count // 2:
            update_index(folder / "index", ImageFolder(photos, describe), scorer, shard_rows=8)
    update_index(folder / "index", ImageFolder(photos, describe), scorer, shard_rows=8)
    return folder / "index"


def files(index: Path) -> list[Path]:
    found = (file for file in index.rglob("*") if file.is_file())
    return sorted(file for file in found if file.name != "writer.lock")


def flip(index: Path, _: Path, draw: random.Random) -> str:
    file = draw.choice(files(index))
    data = bytearray(file.read_bytes())
    for _ in range(draw.choice((1, 1, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return file.name


def truncate(index: Path, _: Path, draw: random.Random) -> str:
    file = draw.choice(files(index))
    data = file.read_bytes()
    lengths = (0, len(data) // 2, max(0, len(data) - 600), len(data) - 1)
    file.write_bytes(data[: draw.choice(lengths)])
    return file.name


def delete(index: Path, _: Path, draw: random.Random) -> str:
    file = draw.choice(files(index))
    file.unlink()
    return file.name


def zero(index: Path, _: Path, draw: random.Random) -> str:
    file = draw.choice(files(index))
    data = bytearray(file.read_bytes())
    start = draw.randrange(len(data))
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    file.write_bytes(data)
    return file.name


def append(index: Path, _: Path, draw: random.Random) -> str:
    file = draw.choice(files(index))
    file.write_bytes(file.read_bytes() + draw.randbytes(draw.choice((1, 80, 4096))))
    return file.name


def swap(index: Path, other: Path, draw: random.Random) -> str:
    """A file of another index of the same model in the place of this one's of its kind."""
    file = draw.choice(files(index))
    donors = [one for one in files(other) if one.suffix == file.suffix]
    shutil.copy(draw.choice(donors), file)
    return file.name


def exchange(index: Path, _: Path, draw: random.Random) -> str:
    one, two = draw.sample(files(index), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return f"{one.name} and {two.name}"


def field(index: Path, _: Path, draw: random.Random) -> str:
    """A value of the manifest changed to another, of its type or not, or gone."""
    file = index / "manifest.json"
    value = json.loads(file.read_text())
    place = draw.choice((value, value["storage"]))
    name = draw.choice(sorted(place))
    if draw.random() < 0.2:
        del place[name]
    else:
        old = place[name]
        others: list[object] = ["/tmp", "captions", "lancedb", "", 0, 1, 3, 10**30, None, [], 0.5]
        others += [f"{old}x", old[:-1]] if isinstance(old, str) else [True]
        place[name] = draw.choice([one for one in others if one != old])
    file.write_text(json.dumps(value))
    return name


def row(index: Path, _: Path, draw: random.Random) -> str:
    """A value in the database changed by SQLite itself: the file is well-formed."""
    import sqlite3

    statement = draw.choice(
        (
            "UPDATE contents SET row = row + 1 WHERE id = 3",
            "UPDATE items SET path = path || 'x' WHERE content = 5",
            "DELETE FROM items WHERE content = 7",
            "DELETE FROM contents WHERE id = 2",
            "UPDATE shards SET rows = rows - 1",
            "UPDATE contents SET width = 7",
            "DELETE FROM notes",
            "UPDATE notes SET data = x'7b7d', sha256 = "
            "'44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'",
            "DROP TABLE bad",
        )
    )
    with sqlite3.connect(index / "catalog.sqlite") as catalog:
        catalog.execute(statement)
    catalog.close()
    return statement[:30]


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, truncate, delete, zero, append, swap, exchange, field, field, row,
)  # fmt: skip


def answers(index: Index, queries: torch.Tensor) -> Answers:
    return [[(h.path, h.cosine, h.probability) for h in some] for some in index.search(queries, 8)]


def outcome(index: Path, queries: torch.Tensor, truth: tuple[Answers, str]) -> str:
    """What a reader gets: "right", "refused", or what must not be."""
    try:
        opened = open_index(index)
        found = answers(opened, queries), opened.manifest.root
    except ValueError as error:
        return "refused" if "index" in str(error) or "manifest" in str(error) else f"told {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "right" if found == truth else "WRONG ANSWER"


def checked(index: Path, expected: str) -> str:
    """`index check` says of it what a search says."""
    try:
        whole = all(finding.ok for finding in check_index(index))
    except ValueError:
        whole = False
    except Exception as error:
        return f"check: {type(error).__name__}: {error}"
    return expected if whole == (expected == "right") else f"check says {whole}, search {expected}"


def run(count: int, scorer: Scorer, folder: Path, seed: int = 0) -> Counter[tuple[str, str]]:
    """`count` mutations of an index, each of a fresh copy: (mutation, outcome) -> how many."""
    draw = random.Random(seed)
    whole = make(folder / "one", scorer, 1)
    other = make(folder / "two", scorer, 2)
    queries = scorer.encode_text(["a dog", "x", "noise"]).cpu()
    opened = open_index(whole)
    truth = answers(opened, queries), opened.manifest.root
    told: Counter[tuple[str, str]] = Counter()
    copy = folder / "one" / "copy"
    for _ in range(count):
        shutil.copytree(whole, copy)
        mutation = draw.choice(MUTATIONS)
        name = mutation(copy, other, draw)
        result = outcome(copy, queries, truth)
        if result in ("right", "refused"):
            result = checked(copy, result)
        if result not in ("right", "refused"):
            result = f"{result} ({name})"
        told[mutation.__name__, result] += 1
        shutil.rmtree(copy)
    return told


if __name__ == "__main__":
    from clipguide.clip.loading import load_scorer

    with tempfile.TemporaryDirectory() as place:
        table = run(int(sys.argv[1]), load_scorer("starter"), Path(place))
    for (kind, result), number in sorted(table.items()):
        print(f"{number:5} {kind:10} {result}")
    good = ("right", "refused")
    bad = sum(number for (_, result), number in table.items() if result not in good)
    print(f"{sum(table.values())} mutations, {bad} wrong answers or undocumented errors")
    sys.exit(bad > 0)
