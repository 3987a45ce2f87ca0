"""The scores of a folder's images with their texts, a row each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.cli.folder import Folder

if TYPE_CHECKING:
    from clipguide.clip.conventions import Scale
    from clipguide.clip.scorer import Scorer

Row = dict[str, Any]


def score_folder(
    model: Scorer, folder: Folder, texts: dict[Path, list[str]], scale: Scale
) -> list[Row]:
    """A row for each text of each image that can be read."""
    results: list[Row] = []
    for batch in folder.batches():
        results += _score_batch(model, batch, texts, scale)
    return results


def _score_batch(
    model: Scorer, batch: Iterable[Any], texts: dict[Path, list[str]], scale: Scale
) -> list[Row]:
    import torch

    batch = [*batch]
    asked = [[scale.text(text) for text in texts[path]] for path, _ in batch]
    with torch.no_grad():
        scores = model.score_each([image for _, image in batch], asked)  # of each image (P,)
    return [
        {"image": str(path), "text": text, "value": value}
        | {"convention": scale.convention, "scorer": model.name}
        for (path, _), prompts, own in zip(batch, asked, scores, strict=True)
        for text, value in zip(prompts, scale.of(own).tolist(), strict=True)
    ]
