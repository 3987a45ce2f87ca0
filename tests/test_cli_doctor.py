"""`clipguide doctor` and `info`: what is there, and whether it is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipguide.cli.checkup import SUMS, starter_files

Cli = Callable[..., Outcome]


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    (tmp_path / "clip").mkdir()
    files = {"README.md": b"card", "clip/model.safetensors": b"weights"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items()]
    (tmp_path / SUMS).write_text("".join(lines))
    return tmp_path


def test_whole_starter(starter: Path) -> None:
    check = starter_files(starter)
    assert (check.ok, check.detail) == (True, "2 files, every sha256 as listed")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_starter_names_the_file(starter: Path, damage: str) -> None:
    weights = starter / "clip" / "model.safetensors"
    if damage == "changed":
        weights.write_bytes(b"Weights")
    else:
        weights.unlink()
    check = starter_files(starter)
    assert check.ok is False
    assert check.detail.startswith("clip/model.safetensors: missing or changed")


def test_absent_starter(tmp_path: Path) -> None:
    assert starter_files(tmp_path).ok is False


def test_doctor_reports_versions_devices_and_room(cli: Cli) -> None:
    import torch

    done = cli("doctor", "--fast", "--json")
    checks = {check["name"]: check for check in done.data}
    assert torch.__version__.startswith(checks["torch"]["detail"])
    assert checks["devices"]["detail"].startswith("cpu (")
    assert checks["disk"]["detail"].endswith("GiB free here")
    assert done.code == (0 if all(check["ok"] is not False for check in done.data) else 1)
    assert "torchvision" in cli("doctor", "--fast").out


def test_the_bundled_starter_is_whole_and_works(cli: Cli, starter_assets: Path) -> None:
    done = cli("doctor", "--json")
    assert done.code == 0, done.out
    works = {check["name"]: check["ok"] for check in done.data}
    assert works["starter model"] is works["score"] is works["generate"] is True


def test_info_of_other_tools_pictures(cli: Cli, tmp_path: Path) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "a cat\nNegative prompt: dog\nSteps: 4, Sampler: DDIM, Seed: 7")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    lines = cli("info", tmp_path / "a.png").out.splitlines()
    assert lines == ["prompt: a cat", "negative: dog", "Steps: 4", "Sampler: DDIM", "Seed: 7"]
    data = cli("info", tmp_path / "a.png", "--json").data
    assert data["clipguide"] is None
    assert data["parameters"]["fields"]["Seed"] == "7"


def test_info_of_a_bare_picture_and_of_terminal_codes(cli: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert "no metadata" in cli("info", tmp_path / "a.png").out
    chunks = PngInfo()
    chunks.add_text("parameters", "\x1b[2J red\nSteps: 4, Sampler: DDIM, Seed: 7")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", pnginfo=chunks)
    assert "\x1b" not in cli("info", tmp_path / "b.png").out
