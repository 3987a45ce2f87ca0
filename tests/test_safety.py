"""The safety checker's verdicts against diffusers' own, on random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from tiny_safety import SIDE, saved_checker
from transformers import CLIPImageProcessor

from clipguide.language.safety import Concepts, load_safety_checker, unsafe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_checker(tmp_path_factory.mktemp("checker"))


def pictures(count: int) -> list[Image.Image]:
    found = []
    for seed in range(count):
        source = np.random.default_rng(seed)
        low = source.integers(256, size=(3, 3, 3), dtype=np.uint8)
        found.append(Image.fromarray(low).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return found


def test_verdicts_are_diffusers_own(folder: Path) -> None:
    images = pictures(48)
    found = load_safety_checker(str(folder))(images).tolist()
    checker = StableDiffusionSafetyChecker.from_pretrained(folder).eval()
    pixels = CLIPImageProcessor.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    _, wanted = checker(clip_input=pixels, images=[np.asarray(image) for image in images])
    assert found == wanted
    assert 0 < sum(wanted) < len(wanted)


class _Vectors(torch.nn.Module):
    """In the place of the tower: its pooled output is what it is given."""

    def forward(self, vectors: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, vectors


def test_the_formula_on_random_vectors(folder: Path) -> None:
    """Against diffusers' own loop, its tower replaced by the vectors themselves."""
    source = torch.Generator().manual_seed(1)
    vectors = torch.randn(400, 8, generator=source)
    checker = StableDiffusionSafetyChecker.from_pretrained(folder)
    checker.vision_model = _Vectors()
    checker.visual_projection = torch.nn.Identity()
    _, wanted = checker(clip_input=vectors, images=torch.zeros(400, 1))
    special = Concepts(checker.special_care_embeds, checker.special_care_embeds_weights)
    concepts = Concepts(checker.concept_embeds, checker.concept_embeds_weights)
    assert unsafe(vectors, special, concepts).tolist() == wanted
    none = Concepts(checker.special_care_embeds, torch.full((3,), 9.0))
    assert unsafe(vectors, none, concepts).tolist() != wanted  # the special concepts count


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ValueError, match=r"expected model\.safetensors"):
        load_safety_checker(str(tmp_path))
