"""`eval set`: the metrics of sets on features of a CLIP and of a vision tower, from the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig, ViTImageProcessor, ViTModel

from clipguide import load_scorer
from clipguide.evaluation.features import load_features
from clipguide.evaluation.set_coverage import coverage
from clipguide.evaluation.set_distances import cmmd, frechet_distance, kernel_distance
from clipguide.evaluation.set_diversity import mean_pairwise_distance, vendi_score


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for side, low in (("made", 0), ("real", 60)):
        (folder / side).mkdir()
        for number in range(9):
            rng = np.random.default_rng(low + number)
            pixels = rng.integers(low, 256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / side / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def images(folder: Path) -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in sorted(folder.iterdir())]


def test_a_vision_towers_features_are_its_own_pooled_output(sets: Path, vit: Path) -> None:
    model = ViTModel.from_pretrained(vit).eval()
    pixels = AutoImageProcessor.from_pretrained(vit)(images(sets / "made"), return_tensors="pt")
    with torch.no_grad():
        expected = model(**pixels).pooler_output
    got = load_features(f"vision:{vit}")(images(sets / "made"))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", ["clip", "vision"])
def test_the_command_gives_the_library_numbers(
    kind: str, sets: Path, vit: Path, clip_dir: Path, cli: Any
) -> None:
    name = str(clip_dir) if kind == "clip" else f"vision:{vit}"
    encode = load_features(name)
    x, y = (encode(images(sets / side)) for side in ("made", "real"))
    found = cli("eval", "set", sets / "made", "--real", sets / "real", "--features", name,
                "--neighbours", 2, "--json")  # fmt: skip
    assert found.code == 0, found.err
    spread = coverage(x, y, neighbours=2)
    assert {row["metric"]: row["value"] for row in found.data["results"]} == pytest.approx(
        {
            "pairwise": mean_pairwise_distance(x),
            "vendi": vendi_score(x),
            "kid": kernel_distance(x, y).mean,
            "frechet": frechet_distance(x, y),
            "cmmd": cmmd(x, y),
            "precision": spread.precision,
            "recall": spread.recall,
            "density": spread.density,
            "coverage": spread.coverage,
        },
        rel=1e-4,
        abs=1e-6,
    )
    assert all(row["convention"] for row in found.data["results"])
    assert found.data["features"] == name
    assert (found.data["generated"], found.data["real"]) == (9, 9)


def test_mistakes_are_one_line(sets: Path, vit: Path, cli: Any, tmp_path: Path) -> None:
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (9, 9)).save(one / "a.png")
    (tmp_path / "none").mkdir()
    good = ["--features", f"vision:{vit}"]
    cases = [
        ([sets / "made"], "give --features"),
        ([sets / "made", "--features", "clip"], "vision:REPOSITORY_OR_FOLDER"),
        ([sets / "made", "--features", "vision:"], "got no model after the colon"),
        ([one, *good], "got 1 samples, expected at least 2"),
        ([tmp_path / "none", *good], "no image files there"),
        ([sets / "made", "--real", tmp_path / "absent", *good], "no such file or folder"),
    ]
    for arguments, reason in cases:
        found = cli("eval", "set", *arguments)
        assert found.code == 2, found.out
        assert reason in found.err
        assert len(found.err.strip().splitlines()) == 1


def test_a_model_that_also_reads_texts_is_no_vision_tower(clip_dir: Path, sets: Path) -> None:
    encode = load_features(f"vision:{clip_dir}")
    with pytest.raises(ValueError, match="got a CLIPModel, expected a vision tower"):
        encode(images(sets / "made"))
    assert load_scorer(clip_dir).encode_image(images(sets / "made")).shape == (9, 16)
