"""Training runs on the toy pictures of `tiny_backbones`."""

from __future__ import annotations

import json
from pathlib import Path

from clipguide.evaluation.recall import recall_report
from clipguide.training.clip_run import ClipRun
from clipguide.training.config import read_config


def toy_run(
    toys: Path, output: Path, *changes: str, notes: list[str] | None = None, **train: object
) -> ClipRun:
    """A run of `toys/toy.toml` into `output`, its cache beside the pictures.

    Args:
        toys: the folder that `toy_config` filled.
        output: of the run.
        changes: as `--set`, after the settings.
        notes: filled with what the run notes.
        train: settings of the table `train`.
    """
    settings = [f"train.{key}={json.dumps(value)}" for key, value in train.items()]
    places = [f"output={output}", f"cache={toys / 'cache'}"]
    config = read_config(toys / "toy.toml", [*settings, *places, *changes])
    return ClipRun(config, recall_report, (notes if notes is not None else []).append)
