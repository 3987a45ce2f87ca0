"""The files of a training run: its configuration, its history, and which run may go on where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipguide.files import write_json
from clipguide.training.config import TrainConfig, renamed

STATE, HISTORY, CONFIG, RESULTS = "state.safetensors", "history.json", "run.json", "results.json"


def open_run(output: Path, config: TrainConfig, resume: bool, write: bool = True) -> dict[str, Any]:
    """The history of the run in `output`, empty for a new one, whose configuration is kept there
    where this process may `write`."""
    if not (output / STATE).exists():
        if write:
            write_json(output / CONFIG, config.plain())
        return {}
    if not resume:
        raise ValueError(f"{output}: got a run already there, expected --resume or another output")
    before: dict[str, Any] = json.loads((output / CONFIG).read_text(encoding="utf-8"))
    before["train"], now = renamed(before["train"]), config.plain()
    changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if changed:
        raise ValueError(f"{output}: got another {', '.join(changed)} than its run has")
    path = output / HISTORY
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def flat_figures(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of nested figures, by their path."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flat_figures(value, f"{name} ")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat
