"""What went on inside a picture: previews that end at the picture, its trace, and the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import Outcome
from PIL import Image

from clipguide.attach.observe import Step
from clipguide.generation.inside import Inside
from clipguide.generation.models import load_models
from clipguide.generation.sampling import Batch, ImageGenerator, ImageRequest
from clipguide.generation.settings import Settings
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.trace import Trace
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
    assert Inside().moved() == []
    moved = [np.asarray(one, dtype=int) for one in inside.moved()]
    assert len(moved) == 5
    assert max(np.abs(one - 127.5).max() for one in moved) == 127.5
    inside.save(*(tmp_path / f"{name}.png" for name in ("x0", "moved", "trace")))
    with Image.open(tmp_path / "x0.png") as strip:
        assert strip.size == (5 * plain.width, plain.height)
    for name in ("x0", "moved", "trace"):
        assert is_composite(tmp_path / f"{name}.png")


def test_what_guidance_moved_is_the_step_rule(tiny_models: Path) -> None:
    """rms(delta) = strength·√C_t·rms(x0), C_t = sigma²/(alpha²+sigma²) = sigma_bar²."""
    own = settings(tiny_models, 0.2)
    models, batch = load_models(own), Batch((ImageRequest("a red fox", 3),), "guided")
    ratios: list[float] = []
    traces: list[Trace] = []

    def look(step: Step) -> None:
        x0, before = step.x0(), step.unguided_x0()
        assert before is not None
        ratios.append(float(((x0 - before).norm() / before.norm()).detach()))

    ImageGenerator(models, own, look, traces.append).sample_batch(batch)
    sigmas = [step.sigma for step in traces[0].steps]
    assert len(sigmas) == 5
    np.testing.assert_allclose(ratios, [0.2 * sigma for sigma in sigmas], rtol=1e-3)


def test_the_report_shows_the_first_pictures_from_inside(
    cli: Cli, tiny_models: Path, tmp_path: Path
) -> None:
    """Of an unguided arm the previews, of a guided one the gradient and the trace too, of a search
    neither; of all where the phrases are."""
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
        "guided": ["moved.png"] * 4 + ["trace.png"] * 4 + ["x0.png"] * 4,
        "best": [],
    }
    page = (tmp_path / "run" / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    inside = {arm["name"]: [len(s["inside"]) for s in arm["samples"]] for arm in data["arms"]}
    assert inside == {"plain": [2] * 4 + [0] * 2, "guided": [4] * 4 + [0] * 2,
                      "best": [1] * 4 + [0] * 2}  # fmt: skip
    texts = [shown["text"] for shown in data["arms"][1]["samples"][0]["inside"]]
    assert [text.split()[0] for text in texts] == ["x0", "what", "the", "where"]
    maps = [*(tmp_path / "run" / "maps").iterdir()]
    assert len(maps) == 3 * 4
    assert all(map(is_composite, maps))
    changed, *others = sorted(maps)
    times = [file.stat().st_mtime_ns for file in others]
    os.utime(changed, (0, 0))  # older than its picture
    assert cli("eval", "run", tmp_path / "e.toml", "--out", tmp_path / "run").code == 0
    assert changed.stat().st_mtime > 0
    assert [file.stat().st_mtime_ns for file in others] == times
