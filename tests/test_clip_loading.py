"""What `load_scorer` takes by name or from a folder, and what it refuses."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
)

from clipguide.clip.loading import load_scorer


def test_names_that_cannot_be_loaded_say_why(tmp_path: Path, tiny_open_clip: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"pickle")
    cases = {
        "clip": "expected one of: starter, starter:judge, starter:latent, open_clip:ARCH/TAG",
        "cilp:ViT-B-32": "expected one of: starter",
        "open_clip:ViT-B-33/openai": "got architecture 'ViT-B-33', expected one of",
        "open_clip:ViT-B-32/opnai": "got weights 'opnai', expected one of .*laion2b_s34b_b79k",
        "open_clip:ViT-B-32": "got weights '', expected one of",
        "openai:ViT-H-14": "expected one of .*RN50x64",
        f"open_clip:{tiny_open_clip}/{tmp_path}/weights.bin": "expected a .safetensors file",
        "hf:/not/here": "got no folder /not/here",
        "hf:nobody/nothing": "cannot be loaded",
        "openai:RN50": "cannot be loaded",  # no network in the tests
        str(tmp_path / "empty"): "got a folder with none of",
    }
    for name, reason in cases.items():
        with pytest.raises(ValueError, match=reason) as caught:
            load_scorer(name)
        assert "\n" not in str(caught.value)


def test_pickled_weights_are_refused(clip_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(clip_dir, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"got weights \['pytorch_model.bin'\], expected model"):
        load_scorer(folder)


def test_incomplete_or_broken_weights_are_refused(clip_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(clip_dir, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["visual_projection.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"got weights without visual_projection.weight"):
        load_scorer(folder)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_scorer(folder)
    assert "\n" not in str(caught.value)


def test_a_model_without_two_towers_is_refused(clip_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text_only"
    shutil.copytree(clip_dir, folder)
    config = CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1)
    config.num_attention_heads = 2
    CLIPTextModel(config).save_pretrained(folder)
    with pytest.raises(ValueError, match="expected a model with an image and a text tower"):
        load_scorer(folder)


def test_open_clip_folder(tiny_open_clip: str, tmp_path: Path) -> None:
    """The layout of an open_clip repository on the Hub, saved by open_clip's own settings."""
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random")
    model_config = copy.deepcopy(open_clip.get_model_config(tiny_open_clip))
    settings = dict(open_clip.get_model_preprocess_cfg(scorer.model.module), size=32)
    config = {"model_cfg": model_config, "preprocess_cfg": {**settings, "mean": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"got no \*.safetensors"):
        load_scorer(tmp_path)
    save_file(scorer.model.module.state_dict(), tmp_path / "open_clip_model.safetensors")
    loaded = load_scorer(tmp_path)
    assert loaded.content_hash == scorer.content_hash
    assert loaded.preprocess.mean == (0.5, 0.5, 0.5)


def test_starter_loads(starter_assets: Path) -> None:
    assert starter_assets.is_dir()
    for name in ("starter", "starter:judge"):
        scorer = load_scorer(name)
        assert scorer.score(torch.rand(1, 3, 128, 128), "a red star").shape == (1,)
