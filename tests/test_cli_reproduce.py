"""`clipguide reproduce`: the same pixels again, or a clear word about what differs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CHECKOUT, Outcome
from PIL import Image
from tiny_clip import tiny_clip_dir
from tiny_pipelines import tiny_taesd

from clipguide.attach.samplers import SAMPLERS
from clipguide.report.metadata import read_metadata, save_png

Cli = Callable[..., Outcome]
PROMPTS = ["a red fox", "b"]
VIEWS = ["--views", 2, "--crop", "0.5:1", "--view-noise", 0.1]

# How twenty pictures are made: every sampler, in batches of two and alone, both modes, with views
# and searches; two prompts each.
RUNS: dict[str, list[object]] = {
    name: ["--sampler", name, "--strength", 0.5, "--batch-size", 1 + index % 2]
    for index, name in enumerate(SAMPLERS)
} | {
    "xt and views": ["--mode", "xt", "--strength", 0.5, "--batch-size", 2, *VIEWS],
    "search": ["--search", "best_of", "--budget", 3, "--batch-size", 2, *VIEWS],
}


def generate(cli: Cli, models: Path, out: Path, *options: object) -> list[Path]:
    base = ["generate", *PROMPTS, "--model", models / "pipe", "--scorer", models / "clip"]
    done = cli(*base, "--steps", 4, "--out", out, "--json", *options)
    assert done.code == 0, done.err
    return [out / row["file"] for row in done.data["results"]]


@pytest.mark.parametrize("run", RUNS)
def test_pictures_come_again_to_the_bit(
    cli: Cli, tiny_models: Path, tmp_path: Path, run: str
) -> None:
    for picture in generate(cli, tiny_models, tmp_path, *RUNS[run]):
        again = cli("reproduce", picture, "--json")
        assert again.code == 0, again.err
        assert again.data["largest_difference"] == 0
        assert again.data["identical"] is True


def test_unguided_twins_come_again(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    pictures = generate(cli, tiny_models, tmp_path, "--compare", "--batch-size", 2)
    assert len(pictures) == 4
    assert [cli("reproduce", p, "--json").data["largest_difference"] for p in pictures] == [0] * 4


def test_in_a_process_of_its_own(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    picture = generate(cli, tiny_models, tmp_path, "--strength", 0.5, "--batch-size", 2)[1]
    command = [sys.executable, "-m", "clipguide", "reproduce", str(picture)]
    # more threads than recorded: the recorded number is what counts
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=CHECKOUT, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "largest pixel difference 0 of 255" in done.stdout


@pytest.fixture
def picture(cli: Cli, tiny_models: Path, tmp_path: Path) -> Path:
    return generate(cli, tiny_models, tmp_path / "made")[0]


def test_one_changed_pixel_is_found(cli: Cli, picture: Path, tmp_path: Path) -> None:
    record = read_metadata(picture).record
    with Image.open(picture) as image:
        edited = image.convert("RGB")
    red, green, blue = edited.getpixel((3, 4))
    edited.putpixel((3, 4), (red, green + 7 if green < 128 else green - 7, blue))
    save_png(edited, tmp_path / "edited.png", record=record)
    done = cli("reproduce", tmp_path / "edited.png", "--json")
    assert done.code == 1
    assert (done.data["largest_difference"], done.data["differing_pixels"]) == (7, 1)
    assert done.data["edited"] is True
    assert "was edited" in done.err


def altered(picture: Path, path: Path, **changes: object) -> Path:
    record = dict(read_metadata(picture).record or {}) | changes
    with Image.open(picture) as image:
        save_png(image, path, record=record)
    return path


def test_another_version_is_named(cli: Cli, picture: Path, tmp_path: Path) -> None:
    record = read_metadata(picture).record or {}
    older = altered(picture, tmp_path / "a.png", versions=record["versions"] | {"torch": "1.0"})
    done = cli("reproduce", older, "--json")
    assert done.code == 0
    assert done.data["changed_versions"]["torch"][0] == "1.0"
    assert "torch was 1.0, now " in done.err


def test_other_weights_are_refused_before_anything_runs(
    cli: Cli, picture: Path, tmp_path: Path, tiny_models: Path
) -> None:
    other = tiny_clip_dir(tmp_path / "other", seed=9)
    done = cli("reproduce", picture, "--scorer", other)
    assert done.code == 2
    assert f"the scorer '{other}' has other weights" in done.err
    record = read_metadata(picture).record or {}
    models = record["models"] | {"pipeline": record["models"]["pipeline"] | {"sha256": "0" * 64}}
    done = cli("reproduce", altered(picture, tmp_path / "a.png", models=models))
    assert done.code == 2
    assert "the pipeline" in done.err
    assert "000000000000 recorded" in done.err


def test_other_settings_of_the_scorer_are_refused(
    cli: Cli, picture: Path, tmp_path: Path, tiny_models: Path
) -> None:
    other = Path(shutil.copytree(tiny_models / "clip", tmp_path / "other"))
    assert cli("reproduce", picture, "--scorer", other).code == 0
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["hidden_act"] = "gelu"
    (other / "config.json").write_text(json.dumps(config))
    done = cli("reproduce", picture, "--scorer", other)
    assert done.code == 2
    assert f"the scorer '{other}' has another configuration or tokenizer" in done.err
    record = read_metadata(picture).record or {}
    del record["models"]["scorer"]["settings_sha256"]  # as of before there was one
    older = altered(picture, tmp_path / "a.png", models=record["models"])
    assert cli("reproduce", older, "--scorer", other).code == 1  # made again, by other scores


def test_models_that_moved_are_found_by_hand(
    cli: Cli, picture: Path, tmp_path: Path, tiny_models: Path
) -> None:
    shutil.copytree(tiny_models / "pipe", tmp_path / "moved")
    record = read_metadata(picture).record or {}
    settings = record["settings"] | {"model": "/no/longer/there"}
    moved = altered(picture, tmp_path / "a.png", settings=settings)
    assert "/no/longer/there" in cli("reproduce", moved).err
    assert cli("reproduce", moved, "--model", tmp_path / "moved").code == 0


def test_a_decoder_that_moved_is_found_by_hand(cli: Cli, tmp_path: Path, tiny_models: Path) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    tiny_taesd().save_pretrained(then)
    options = ["--decoder", then, "--strength", 0.5]
    picture = generate(cli, tiny_models, tmp_path / "out", *options)[0]
    then.rename(now)
    assert cli("reproduce", picture).code == 2
    again = cli("reproduce", picture, "--decoder", now, "--json")
    assert (again.code, again.data["largest_difference"]) == (0, 0)


HOSTILE: dict[str, dict[str, object]] = {
    "another schema": {"schema": 99},
    "no batch": {"batch": None},
    "a setting of a wrong type": {"settings": {"steps": "many"}},
    "an unknown setting": {"settings": {"command": "rm"}},
    "guidance that is no object": {"settings": {"guidance": 3}},
    "too many threads": {"threads": 10**9},
    "an index beyond the batch": {"batch": {"prompts": ["a"], "seeds": [1], "keep": 1, "index": 5}},
    "more seeds than prompts": {
        "batch": {"prompts": ["a"], "seeds": [1, 2], "keep": 1, "index": 0}
    },
    "an empty batch": {"batch": {"prompts": [], "seeds": [], "keep": 1, "index": 0}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_cannot_be_right_is_one_line(
    cli: Cli, picture: Path, tmp_path: Path, name: str
) -> None:
    done = cli("reproduce", altered(picture, tmp_path / "a.png", **HOSTILE[name]))
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert "a.png" in done.err


def test_pictures_without_a_record_say_so(cli: Cli, picture: Path, tmp_path: Path) -> None:
    save_png(Image.new("RGB", (8, 8)), tmp_path / "bare.png")
    assert "no clipguide record" in cli("reproduce", tmp_path / "bare.png").err
    sheet = picture.parent / "contact_sheet.png"
    assert f"expected one of them: {picture.name}" in cli("reproduce", sheet).err


def test_the_new_picture_can_be_kept(cli: Cli, picture: Path, tmp_path: Path) -> None:
    cli("reproduce", picture, "--out", tmp_path / "again.png")
    with Image.open(tmp_path / "again.png") as again, Image.open(picture) as first:
        assert again.tobytes() == first.tobytes()


def test_info_shows_the_record(cli: Cli, picture: Path) -> None:
    assert cli("info", picture, "--json").data["clipguide"] == read_metadata(picture).record
    lines = cli("info", picture).out.splitlines()
    assert "prompt: a red fox" in lines
    assert "  steps: 4" in lines
    assert json.loads(next(x for x in lines if x.startswith("scores: "))[8:])[0]["value"]
