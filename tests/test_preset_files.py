"""Settings that people share: methods by name, TOML, JSON, and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clipguide.generation.preset import METHODS, merged, read_preset
from clipguide.generation.settings import settings_for
from clipguide.guidance import presets
from clipguide.report.metadata import read_metadata

STEPS = ["--steps", "3", "--judge", "starter", "--decoder", "starter"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_published_config(name: str) -> None:
    settings = settings_for("starter", read_preset(name, 0.25))
    assert settings.guidance == METHODS[name](0.25)
    assert (settings.search, settings.scorer) == (None, "starter")
    assert settings.guidance.strength == 0.25


def test_files_say_what_the_method_says(tmp_path: Path) -> None:
    config = presets.freedom(0.1, 2, (0.4, 0.8))
    whole = {"cfg_scale": 4.0, "search": None, "guidance": asdict(config)}
    (tmp_path / "a.json").write_text(json.dumps(whole))
    lines = ["cfg_scale = 4.0", "[guidance]", 'mode = "xt"', "window = [0.4, 0.8]"]
    (tmp_path / "a.toml").write_text("\n".join(lines))
    from_json = settings_for("starter", read_preset(str(tmp_path / "a.json")))
    assert from_json.guidance == config
    from_toml = settings_for("starter", read_preset(str(tmp_path / "a.toml")))
    assert (from_toml.cfg_scale, from_toml.guidance.window) == (4.0, (0.4, 0.8))


def test_what_is_given_counts_more() -> None:
    preset = {"cfg_scale": 4.0, "guidance": {"mode": "xt", "strength": 1.0}}
    found = merged(preset, {"cfg_scale": 2.0, "guidance": {"strength": 3.0}})
    assert found == {"cfg_scale": 2.0, "guidance": {"mode": "xt", "strength": 3.0}, "views": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "starter"', "got model, which is not for a preset to say"),
        ("cfg_scal = 1", "got setting 'cfg_scal', expected one of"),
        ("cfg_scale = 'x'", "expected a number"),
        ("guidance = 3", "got guidance 3, expected a table"),
        ("[guidance]\nstrength = -1", "strength"),
        ("not toml", "a.toml: "),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        settings_for("starter", merged(read_preset(str(tmp_path / "a.toml")), {}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dps", "dps has no step size of its own: give --strength"),
        ("magic", "got preset 'magic', expected one of dps, flowchef"),
        ("nowhere.toml", "nowhere.toml: no such file"),
        ("nowhere.png", "nowhere.png: no such file"),
    ],
)
def test_presets_that_are_not_there(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?i){message}"):
        read_preset(name)


def test_a_picture_is_a_preset(
    starter_assets: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    """Made by a published method, taken over for another prompt, recorded and reproduced."""
    first, second = tmp_path / "first", tmp_path / "second"
    done = cli("generate", "a red star", "--preset", "dps", "--strength", "0.05", *STEPS,
               "--out", str(first))  # fmt: skip
    assert done.code == 0, done.err
    (picture,) = first.glob("0000-*.png")
    done = cli("generate", "a blue ring", "--preset", str(picture), "--out", str(second))
    assert done.code == 0, done.err
    (other,) = second.glob("0000-*.png")
    records = [read_metadata(file).record for file in (picture, other)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[0]["settings"] == records[1]["settings"]
    assert records[1]["settings"]["guidance"] == json.loads(json.dumps(asdict(presets.dps(0.05))))
    assert cli("reproduce", str(other)).code == 0
