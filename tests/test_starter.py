"""The bundled starter model: loads without clipguide, reads word order, and guidance moves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import CLIPModel

import clipguide
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_captions import spec_of
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.data.scenes import render, sample_scene
from clipguide.evaluation.swaps import swap_accuracy

LOAD = """
import sys
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor
folder = sys.argv[1]
pipe = StableDiffusionPipeline.from_pretrained(folder + "/pipeline")
AutoencoderTiny.from_pretrained(folder + "/preview")
for name in ("clip", "judge"):
    CLIPModel.from_pretrained(folder + "/" + name)
    CLIPProcessor.from_pretrained(folder + "/" + name)
assert "clipguide" not in sys.modules
print(type(pipe.unet).__name__, type(pipe.text_encoder).__name__)
"""


def test_it_loads_without_clipguide(starter_assets: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, str(starter_assets)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["UNet2DConditionModel", "CLIPTextModel"]


def test_it_fits_in_32_megabytes(starter_assets: Path) -> None:
    size = sum(file.stat().st_size for file in starter_assets.rglob("*") if file.is_file())
    assert size <= 32 * 2**20


def test_the_text_encoder_is_the_clips_text_tower(starter_assets: Path) -> None:
    pipe = clipguide.load_starter()
    clip = CLIPModel.from_pretrained(starter_assets / "clip")
    tower = clip.text_model.state_dict()
    # newer versions of transformers have one class for both, 5.3 wraps it here
    encoder = getattr(pipe.text_encoder, "text_model", pipe.text_encoder).state_dict()
    assert all(torch.equal(encoder[name].half(), value.half()) for name, value in tower.items())


@pytest.mark.parametrize("name", ["starter", "starter:judge"])
def test_word_order_is_read(starter_assets: Path, name: str) -> None:
    scorer: Scorer = clipguide.load_scorer(name)
    rng = Random(5)
    scenes = [sample_scene(800_000 + i, count=2) for i in range(200)]
    specs = [spec_of(scene, rng, relation=1.0) for scene in scenes]
    features = scorer.encode_image([render(scene) for scene in scenes])
    found = swap_accuracy(features, specs, scorer.encode_text)
    assert min(found.values()) >= 0.9, found


def test_guidance_raises_the_guiding_score(starter_assets: Path) -> None:
    pipe, scorer = clipguide.load_starter(), clipguide.load_scorer("starter")
    pipe.set_progress_bar_config(disable=True)
    prompts = fixed_prompts(4)

    def scores(strength: float) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(4)]
        reward = clipguide.ClipReward(scorer, prompts)
        with clipguide.guide(pipe, reward, strength=strength):
            images = pipe(prompts, generator=generators, num_inference_steps=8).images
        return scorer.score(images, prompts)

    assert float((scores(0.3) - scores(0.0)).mean()) > 0
