"""The sheets of a run: all of its pictures on one, and a picture beside its baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from clipguide.batching import batches
from clipguide.cli.run_folder import RunFolder
from clipguide.cli.tables import how_made
from clipguide.generation.record import sheet_record
from clipguide.images import load_image
from clipguide.report.contact_sheet import Picture, Tile, contact_sheet
from clipguide.report.metadata import save_png

Rows = Sequence[Mapping[str, Any]]


def tile_of(rows: Rows, images: Sequence[Image.Image]) -> Tile:
    """A picture with its numbers; of two the baseline, which is the second, on the left."""
    pair = len(rows) > 1
    pictures = [
        Picture(image, _caption_lines(row, pair=pair))
        for image, row in zip(images, rows, strict=True)
    ]
    return Tile(rows[0]["prompt"], tuple(reversed(pictures)))


def write_pair(file: Path, tile: Tile, rows: Rows, *, metadata: bool) -> None:
    """A picture beside its baseline; one that is there stays."""
    if not file.exists():
        record = sheet_record([row["file"] for row in rows]) if metadata else None
        save_png(contact_sheet([tile]), file, record=record)


def write_sheet(folder: RunFolder, rows: Rows, *, compare: bool, metadata: bool) -> Path:
    """All pictures of a run, read from their files."""
    groups = batches(rows, 2 if compare else 1)
    tiles = [
        tile_of(group, [load_image(folder.path / row["file"]) for row in group]) for group in groups
    ]
    sheet = contact_sheet(tiles)
    record = sheet_record([row["file"] for row in rows]) if metadata else None
    return folder.write_sheet(lambda file: save_png(sheet, file, record=record))


def _caption_lines(row: Mapping[str, Any], *, pair: bool) -> tuple[str, ...]:
    lines = [how_made(row)] if pair else []
    named = zip(("clip", "judge"), row["scores"], strict=False)
    lines.append("  ".join(f"{name} {score['value']:.3f}" for name, score in named))
    lines.append(f"seed {row['seed']}")
    if row["oracle"] is not None:
        lines.append("oracle: right" if row["oracle"] else "oracle: wrong")
    return tuple(lines)
