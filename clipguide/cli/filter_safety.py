"""The verdicts of a safety checker on the images of a folder; a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.batching import batches
from clipguide.cli.folder import BATCH, read_part

if TYPE_CHECKING:
    from torch import Tensor

    from clipguide.retrieval.items import Items
    from clipguide.workers import Workers


@dataclass(frozen=True)
class SafetyJob:
    """Verdicts on the images of a part.

    Attributes:
        name: of the checker.
    """

    name: str

    def open(self) -> Callable[[list[str]], dict[str, bool]]:
        """Loads the checker."""
        from clipguide.language.safety import load_safety_checker

        checker = load_safety_checker(self.name)

        def look(names: list[str]) -> dict[str, bool]:
            bad: list[dict[str, str]] = []
            found: dict[str, bool] = {}
            for some in read_part(names, bad):
                verdicts = checker([image for _, image in some]).tolist()
                found |= dict(zip((name for name, _ in some), verdicts, strict=True))
            if bad:  # it was good when it was indexed
                raise ValueError(f"{bad[0]['image']}: {bad[0]['reason']}; filter again")
            return found

        return look


def unsafe_items(items: Items, root: Path, name: str, file: Path, workers: Workers) -> Tensor:
    """(N,) whether the checker would black an item out.

    Args:
        items: of the index of `root`.
        root: the folder.
        name: of the checker.
        file: where verdicts are kept, by the checker's weights and the image's bytes.
        workers: who looks.
    """
    import torch
    from tqdm import tqdm

    from clipguide.files import append_lines, sha256_file
    from clipguide.language.safety import checkpoint_file

    key = sha256_file(checkpoint_file(name))
    hashes = {path: sha256_file(root / path) for path in items.paths}
    known = _read(file, key)
    todo: dict[str, str] = {}  # hash -> one file of it
    for path, hash_ in hashes.items():
        if hash_ not in known:
            todo.setdefault(hash_, str(root / path))
    hash_of = {name: hash_ for hash_, name in todo.items()}
    parts = batches([*todo.values()], BATCH)
    with tqdm(total=len(todo), unit="image", leave=False, delay=1.0) as bar:
        for found in workers.do(SafetyJob(name), parts):
            rows = [
                {"checker": key, "image": hash_of[n], "unsafe": bad} for n, bad in found.items()
            ]
            append_lines(file, [json.dumps(row) for row in rows])
            known |= {row["image"]: row["unsafe"] for row in rows}
            bar.update(len(rows))
    return torch.tensor([known[hashes[path]] for path in items.paths], dtype=torch.bool)


def _read(file: Path, key: str) -> dict[str, bool]:
    """Image's hash -> verdict of one checker; half a line of a killed run counts as none."""
    from clipguide.texts import read_text, split_lines

    known: dict[str, bool] = {}
    for line in split_lines(read_text(file)) if file.exists() else ():
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        if row["checker"] == key:
            known[str(row["image"])] = bool(row["unsafe"])
    return known
