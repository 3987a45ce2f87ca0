"""The captioner in the package, on scenes that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

from clipguide import load_scorer
from clipguide.data.scene_captions import is_caption, parse_caption
from clipguide.data.scenes import render, sample_scene
from clipguide.language.loading import load_captioner

Cli = Callable[..., Outcome]
SCENES = [sample_scene(seed) for seed in range(1000, 1024)]
RIGHT = 18
"""Of these scenes, at least so many captions name the colours and shapes that are there."""


@pytest.fixture(scope="module", autouse=True)
def installed(starter_assets: Path) -> None:
    files = [file for file in (starter_assets / "captioner").rglob("*") if file.is_file()]
    assert 0 < sum(file.stat().st_size for file in files) < 1_000_000


def test_captions_name_what_is_there() -> None:
    written = load_captioner("starter").caption([render(scene) for scene in SCENES])
    right = 0
    for scene, (best, *_) in zip(SCENES, written, strict=True):
        if is_caption(best.text):
            said = {(item.color, item.shape) for item in parse_caption(best.text).objects}
            right += said == {(item.color, item.shape) for item in scene.objects}
    assert right >= RIGHT


def test_it_judges_and_captions_from_the_command_line(tmp_path: Path, cli: Cli) -> None:
    for place, scene in enumerate(SCENES[:2]):
        render(scene).save(tmp_path / f"{place}.png")
    done = cli("caption", tmp_path, "--captioner", "starter", "--json")
    assert done.code == 0, done.err
    texts = {Path(row["image"]).name: row["caption"] for row in done.data["results"]}
    judge = load_scorer("log-prob:starter@0")
    scores = judge.similarity([tmp_path / "0.png", tmp_path / "1.png"], [*texts.values()])
    assert scores[0, 0] > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]
