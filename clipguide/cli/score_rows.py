"""The scores of a folder's images with their texts, a row each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipguide.cli.folder import Folder

if TYPE_CHECKING:
    from clipguide.clip.scorer import Scorer

Row = dict[str, Any]


def score_folder(
    model: Scorer, folder: Folder, texts: dict[Path, list[str]], convention: str, prefix: str
) -> list[Row]:
    """A row for each text of each image that can be read."""
    results: list[Row] = []
    for batch in folder.batches():
        results += _score_batch(model, batch, texts, convention, prefix)
    return results


def _score_batch(
    model: Scorer, batch: Iterable[Any], texts: dict[Path, list[str]], convention: str, prefix: str
) -> list[Row]:
    import torch

    from clipguide.clip.conventions import CONVENTIONS

    batch = [*batch]
    embeddings = model.encode_image([image for _, image in batch])  # (B, D)
    rows: list[Row] = []
    for (path, _), embedding in zip(batch, embeddings, strict=True):
        prompts = [f"{prefix.strip()} {text}".strip() for text in texts[path]]
        with torch.no_grad():
            cosines = model.encode_text(prompts) @ embedding  # (P,)
        values: list[float] = CONVENTIONS[convention](cosines, model.logit_scale).tolist()
        rows += [
            {"image": str(path), "text": text, "value": value}
            | {"convention": convention, "scorer": model.name}
            for text, value in zip(prompts, values, strict=True)
        ]
    return rows
