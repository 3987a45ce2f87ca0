"""What went on inside a picture: previews that end at the picture, its trace, and the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import Outcome
from PIL import Image

from clipguide.generation.inside import Inside
from clipguide.generation.models import load_models
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.guidance.config import GuidanceConfig
from clipguide.report.metadata import is_composite

Cli = Callable[..., Outcome]


def settings(tiny_models: Path, strength: float) -> Settings:
    return Settings(
        str(tiny_models / "pipe"), str(tiny_models / "clip"), steps=5,
        guidance=GuidanceConfig(strength), cfg_scale=3.0,
    )  # fmt: skip


def test_previews_end_at_the_picture_and_change_nothing(tiny_models: Path, tmp_path: Path) -> None:
    own = settings(tiny_models, 0.2)
    models, batch = load_models(own), Batch((ImageRequest("a red fox", 3),), "guided")
    plain = ImageGenerator(models, own).sample_batch(batch)[0].image
    inside = Inside()
    seen = ImageGenerator(models, own, inside, inside.take).sample_batch(batch)[0].image
    assert seen.tobytes() == plain.tobytes()
    frames = inside.frames()
    assert len(frames) == 5
    assert len(inside.frames(3)) == 3
    assert inside.frames(1)[0].tobytes() == frames[-1].tobytes()
    last, picture = (np.asarray(one, dtype=int) for one in (frames[-1], plain))
    assert np.abs(last - picture).max() <= 1
    assert np.abs(np.asarray(frames[0], dtype=int) - picture).max() > 1
    assert inside.trace is not None
    assert len(inside.trace.steps) == 5
    inside.save(tmp_path / "x0.png", tmp_path / "trace.png")
    with Image.open(tmp_path / "x0.png") as strip:
        assert strip.size == (5 * plain.width, plain.height)
    assert is_composite(tmp_path / "x0.png")
    assert is_composite(tmp_path / "trace.png")


def test_the_report_shows_the_first_pictures_from_inside(
    cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    """Of an unguided arm the previews, of a guided one the trace too, of a search neither."""
    design = f"""
prompts = {json.dumps([f"fox {i}" for i in range(6)])}
judges = ["{tiny_models / "judge"}"]
controls = false
[defaults]
model = "{tiny_models / "pipe"}"
scorer = "{tiny_models / "clip"}"
steps = 2
[arms.plain]
guidance = {{ strength = 0 }}
[arms.guided]
guidance = {{ strength = 0.2 }}
[arms.best]
search = "best_of"
budget = 1
guidance = {{ strength = 0 }}
"""
    (tmp_path / "e.toml").write_text(design)
    done = cli("eval", "run", tmp_path / "e.toml", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    shown = {
        folder.name.rsplit("-", 1)[0]: sorted(
            file.name.split("-")[2] for file in (folder / "inside").glob("*.png")
        )
        for folder in (tmp_path / "run" / "arms").iterdir()
    }
    assert shown == {
        "plain": ["x0.png"] * 4,
        "guided": ["trace.png"] * 4 + ["x0.png"] * 4,
        "best": [],
    }
    page = (tmp_path / "run" / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    inside = {arm["name"]: [len(s["inside"]) for s in arm["samples"]] for arm in data["arms"]}
    assert inside == {"plain": [1] * 4 + [0] * 2, "guided": [2] * 4 + [0] * 2, "best": [0] * 6}
