"""The Flickr8k recipes of our own dual encoder, on toy backbones and toy pictures, two epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipguide.clip.loading import load_scorer
from clipguide.evaluation.recall import recall_report
from clipguide.training.clip_run import ClipRun
from clipguide.training.config import read_config

RECIPES = Path(__file__).parents[1] / "training" / "flickr8k"


def run(toys: Path, name: str, output: Path, *more: str) -> ClipRun:
    split = '{captions="captions.tsv", images="images"}'
    changes = [f"root={toys}", f"data={{train={split}, dev={split}}}", "train.epochs=2", *more]
    return ClipRun(
        read_config(RECIPES / f"{name}.toml", [*changes, f"output={output}"]), recall_report, print
    )


@pytest.mark.parametrize("name", ["frozen", "best", "word_order"])
def test_heads_train_and_load(toys: Path, tmp_path: Path, name: str) -> None:
    backbones = (f"model.text={toys / 'text'}", f"model.image={toys / 'image'}")
    results = run(toys, name, tmp_path, *backbones).train()
    assert not results["collapsed"]
    assert load_scorer(tmp_path).embed_dim == 512


def test_the_last_blocks_train_on_from_heads(toys: Path, tmp_path: Path) -> None:
    backbones = (f"model.text={toys / 'text'}", f"model.image={toys / 'image'}")
    heads = run(toys, "frozen", tmp_path / "heads", *backbones)
    heads.train()
    blocks = ("train.unfreeze_text=1", "train.unfreeze_image=1")
    start = f"model.start={tmp_path / 'heads'}"
    more = run(toys, "last_blocks", tmp_path / "more", start, *blocks)
    more.train()
    before, after = heads.model.state_dict(), more.model.state_dict()
    moved = {key for key in before if not before[key].equal(after[key])}
    assert any("image.model.encoder.stages.3" in key for key in moved)
    assert any("text.model.encoder.layer.1" in key for key in moved)
    assert not any("layer.0" in key and key.startswith("text.") for key in moved)
