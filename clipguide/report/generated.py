"""What generated images say of themselves, as fields one can filter by."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, cast

from clipguide.report.metadata import read_metadata
from clipguide.report.png_text import MetadataError

_LARGEST = 2**63 - 1  # what a database keeps as a whole number


def describe(path: Path) -> dict[str, object]:
    """prompt, negative, seed and score of a generated PNG, those it has; {} for other files.

    Our own record counts first, then AUTOMATIC1111's `parameters`. The score is the first of the
    record's (by the CLIP that guided). Damaged metadata counts as none: the pixels are still good.
    """
    if path.suffix.lower() != ".png":
        return {}
    try:
        metadata = read_metadata(path)
    except MetadataError:
        return {}
    if metadata.record is not None:
        return _known(_of_record(metadata.record))
    if metadata.parameters is None:
        return {}
    parameters = metadata.parameters
    seed = parameters.fields.get("Seed", "")
    return _known(
        {
            "prompt": parameters.prompt,
            "negative": parameters.negative,
            "seed": int(seed) if len(seed) < 20 and seed.isascii() and seed.isdigit() else None,
        }
    )


def model_of(path: Path) -> str | None:
    """The diffusion model that a picture's own record says made it: "starter", a directory, a hub
    id; None where nothing says so, or where it is a picture made of others.
    """
    if path.suffix.lower() != ".png":
        return None
    try:
        record = read_metadata(path).record
    except MetadataError:
        return None
    settings: object = (record or {}).get("settings")
    model = cast("dict[str, object]", settings).get("model") if isinstance(settings, dict) else None
    return model if isinstance(model, str) else None


def _of_record(record: Mapping[str, Any]) -> dict[str, object]:
    scores: object = record.get("scores")
    first: object = cast("list[object]", scores)[0] if isinstance(scores, list) and scores else None
    score = cast("dict[str, object]", first).get("value") if isinstance(first, dict) else None
    return {name: record.get(name) for name in ("prompt", "negative", "seed")} | {"score": score}


def _known(fields: Mapping[str, object]) -> dict[str, object]:
    """Fields that are there and of the right kind."""
    texts = {n: _text(v) for n in ("prompt", "negative") if isinstance(v := fields.get(n), str)}
    seed, score = fields.get("seed"), fields.get("score")
    numbers: dict[str, object] = {}
    if isinstance(seed, int) and not isinstance(seed, bool) and abs(seed) <= _LARGEST:
        numbers["seed"] = seed
    if isinstance(score, (int, float)) and not isinstance(score, bool) and isfinite(score):
        numbers["score"] = float(score)
    return {name: text for name, text in texts.items() if text} | numbers


def _text(value: str) -> str:
    """Without half characters (lone surrogates), which no file or database takes."""
    return value.encode("utf-8", errors="replace").decode("utf-8")
