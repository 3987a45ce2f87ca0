"""Runs of captioners on the toy pictures of `tiny_backbones`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from clipguide.evaluation.caption_metrics import caption_report
from clipguide.training.caption_config import CaptionConfig
from clipguide.training.caption_run import CaptionRun
from clipguide.training.run_config import read_run_config

RECIPES = Path(__file__).parents[1] / "training" / "captioners"


def toy_captioner(
    toys: Path, kind: str, output: Path, clip: Path, *,
    captioner: Mapping[str, object] | None = None, **train: object,
) -> CaptionRun:  # fmt: skip
    """A run of a recipe, small, on toy pictures; `clip` is what the prefix sees."""
    split = '{captions="captions.tsv", images="images"}'
    seen = (
        f"captioner.clip={clip}" if kind == "clip_prefix" else f"captioner.image={toys / 'image'}"
    )
    changes = [
        f"root={toys}", f"data={{train={split}, dev={split}}}", f"output={output}",
        f"cache={toys / 'cache'}", seen, "captioner.hidden=32", "captioner.least=1",
        "captioner.layers=1", "captioner.prefix=2", 'train.precision="float32"',
    ]  # fmt: skip
    recurrent = {} if kind == "clip_prefix" else {"levels": 1, "size": 0, "mirrored": False}
    changes += [
        f"captioner.{key}={json.dumps(value)}"
        for key, value in {**recurrent, **(captioner or {})}.items()
    ]
    settings = [f"train.{key}={json.dumps(value)}" for key, value in train.items()]
    return CaptionRun(
        read_run_config(RECIPES / f"{kind}.toml", [*changes, *settings], CaptionConfig),
        caption_report,
        print,
    )
