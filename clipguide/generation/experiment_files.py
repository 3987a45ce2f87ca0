"""The files of numbers that an experiment leaves."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipguide.evaluation.comparison import ORACLE, Sample
from clipguide.files import atomic_path, write_json, write_text

SUMMARY, SAMPLES = "summary.json", "samples.jsonl"


def write_results(run: Path, samples: Sequence[Sample], summary: Mapping[str, Any]) -> None:
    """samples.jsonl, samples.csv, samples.parquet where pyarrow is installed, and summary.json."""
    rows = [sample.to_json() for sample in samples]
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(run / SAMPLES, "\n".join(lines) + "\n")
    flat = [_flat(row, summary["scorers"]) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*flat[0]])
    writer.writeheader()
    writer.writerows(flat)
    write_text(run / "samples.csv", text.getvalue())
    _write_parquet(run / "samples.parquet", flat)
    write_json(run / SUMMARY, summary)


def _flat(row: Mapping[str, Any], scorers: Sequence[str]) -> dict[str, Any]:
    """Scores as columns of their own."""
    scores: Mapping[str, float] = row["scores"]
    plain = {name: value for name, value in row.items() if name != "scores"}
    return plain | {name: scores.get(name) for name in (*scorers, ORACLE)}


def _write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Where pyarrow is installed."""
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        return
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with atomic_path(file) as temporary:
        parquet.write_table(arrow.table(columns), temporary)
