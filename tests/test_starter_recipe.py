"""The starter's recipe, two steps of every stage: what it makes loads anywhere and is small."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from clipguide.attach import starter
from clipguide.clip import loading
from clipguide.files import sha256_file
from training.starter import clip, diffusion, doubles, measure, towers, train, vae

MEGABYTES = 32


def make_starter(folder: Path) -> Path:
    """``train.main`` on eight scenes, two steps a stage, into ``folder``/out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", "--work", f"{folder}/work", "--out", f"{folder}/out"])
        patch.setattr(train, "SCENES", 8)
        patch.setattr(train, "PREVIEWS", 8)
        for module in (vae, clip, towers, diffusion, doubles):
            patch.setattr(module, "BATCH", 4)
        for module, name in (
            (vae, "SETTINGS"), (vae, "FINISH_SETTINGS"), (vae, "PREVIEW_SETTINGS"),
            (clip, "MATCH_SETTINGS"), (clip, "PREVIEW_SETTINGS"),
        ):  # fmt: skip
            patch.setattr(module, name, replace(getattr(module, name), steps=2))
        for module, name, whole in (
            (towers, "train_text_tower", towers.TEXT_SETTINGS),
            (towers, "train_image_tower", towers.IMAGE_SETTINGS),
            (diffusion, "train_unet", diffusion.SETTINGS),
            (doubles, "tell_doubles", doubles.SETTINGS),
        ):
            short = partial(getattr(module, name), settings=replace(whole, steps=2))
            patch.setattr(module, name, short)
        patch.setattr(clip, "measure_swaps", partial(clip.measure_swaps, count=8))
        train.main()
    return folder / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("starter")
    yield make_starter(folder)
    shutil.rmtree(folder)  # checkpoints of 150 MB


WITHOUT_CLIPGUIDE = """
import sys, torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from transformers import CLIPModel, CLIPProcessor

folder = sys.argv[1]
pipe = StableDiffusionPipeline.from_pretrained(f"{folder}/pipeline", torch_dtype=torch.float32)
seed = torch.Generator().manual_seed(0)
image = pipe("a red star", num_inference_steps=2, generator=seed).images[0]
print(image.size)
for name in ("clip", "judge"):
    model = CLIPModel.from_pretrained(f"{folder}/{name}", dtype=torch.float32)
    processor = CLIPProcessor.from_pretrained(f"{folder}/{name}")
    texts = ["a red star", "an orange ring left of a small blue cross"]
    batch = processor(text=texts, images=image, return_tensors="pt", padding=True)
    print(tuple(model(**batch).logits_per_image.isfinite().tolist()[0]))
decoder = AutoencoderTiny.from_pretrained(f"{folder}/preview")
print(tuple(decoder.decode(torch.zeros(1, 4, 16, 16)).sample.shape))
print([name for name in sys.modules if name.partition(".")[0] == "clipguide"])
"""


def test_diffusers_and_transformers_load_what_it_makes_alone(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CLIPGUIDE, str(made)],
        capture_output=True, text=True, cwd=made, env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = ["(128, 128)", "(True, True)", "(True, True)", "(1, 3, 64, 64)", "[]"]
    assert done.stdout.splitlines() == lines


def test_it_is_small_and_made_of_safetensors(made: Path) -> None:
    files = [path for path in made.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 2**20
    weights = [load_file(path) for path in files if path.suffix == ".safetensors"]
    floats = [v for tensors in weights for v in tensors.values() if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}
    assert all(value.isfinite().all() for value in floats)


def test_the_pipeline_reads_prompts_with_the_guiding_clips_text_tower(made: Path) -> None:
    def tower(path: Path) -> dict[str, torch.Tensor]:
        tensors = load_file(path / "model.safetensors")
        named = {name.removeprefix("text_model."): value for name, value in tensors.items()}
        return {k: v for k, v in named.items() if k.startswith(("embeddings", "encoder", "final"))}

    names = load_file(made / "pipeline" / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)  # what every transformers reads
    own, pipelines = tower(made / "clip"), tower(made / "pipeline" / "text_encoder")
    assert own.keys() == pipelines.keys()
    assert all(torch.equal(own[name], pipelines[name]) for name in own)
    caption = "a small striped red star left of a blue ring"
    tokens = [
        CLIPTokenizer.from_pretrained(folder)(caption).input_ids
        for folder in (made / "clip", made / "judge", made / "pipeline" / "tokenizer")
    ]
    assert tokens[0] == tokens[1] == tokens[2]
    assert len(tokens[0]) == 2 + len(caption.split())


def test_what_is_made_is_not_made_again(made: Path) -> None:
    def weights(folder: Path) -> dict[Path, str]:
        return {path: sha256_file(path) for path in folder.rglob("*.safetensors")}

    work = made.parent / "work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.safetensors")}
    digests = weights(made)
    shutil.rmtree(made)
    assert weights(make_starter(made.parent)) == digests
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.safetensors")} == before


PICTURES = ("unguided", "guided", "search")
"""The ways that need no latent tower, which this recipe does not make."""


def test_its_figures_are_printed_for_every_way_of_sampling(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starter, "FOLDER", made / "pipeline")
    monkeypatch.setattr(starter, "DECODER_FOLDER", made / "preview")
    monkeypatch.setitem(loading.BUNDLED, "starter", made / "clip")
    monkeypatch.setitem(loading.BUNDLED, "starter:judge", made / "judge")
    monkeypatch.setattr(
        sys, "argv", ["measure", "--prompts", "3", "--steps", "4", "--ways", *PICTURES]
    )
    measure.main()
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == "3 prompts (1 novel), 4 steps"
    names = header.split()
    assert len(rows) >= 5
    for row in rows:
        numbers = [float(word) for word in row.split()[-len(names) :]]
        assert all(math.isfinite(number) for number in numbers)
        assert numbers[0] == pytest.approx((2 * numbers[1] + numbers[2]) / 3, abs=0.1)


def test_the_autoencoders_config_gives_latents_unit_variance(made: Path) -> None:
    scale = json.loads((made / "pipeline" / "vae" / "config.json").read_text())["scaling_factor"]
    latents = load_file(made.parent / "work" / "latents.safetensors")["latents"]
    assert latents.std().item() * scale == pytest.approx(1.0, abs=0.02)
