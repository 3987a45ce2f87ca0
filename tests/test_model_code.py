"""Code that comes with a model is never run and never asked about, wherever it hides.

Each case plants code that writes a file when it is imported, and says yes to every question.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
from diffusers import AutoencoderTiny
from safetensors.torch import load_file, save_file
from tiny_backbones import tiny_backbones

from clipguide.attach.loading import load_decoder, load_pipeline
from clipguide.clip.dual_encoder import DualEncoder
from clipguide.clip.loading import load_scorer
from clipguide.clip.trainable_transformers import load_trainable_transformers
from clipguide.training.autoencoders import load_autoencoder

CLASSES = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoProcessor")


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that planted code writes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 99))
    return tmp_path / "ran"


def plant(folder: Path, mark: Path, file: str, *path: str, **more: Any) -> Path:
    """Code into `folder`, and `auto_map` for every Auto class into `file`, at a place within it."""
    (folder / "planted.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).write_text('ran')\n"
        "from transformers import *\nclass Planted(BertConfig): model_type = 'planted'\n"
    )
    settings = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    inner = settings
    for key in path:
        inner = inner.setdefault(key, {})
    inner |= {"auto_map": dict.fromkeys(CLASSES, "planted.Planted"), **more}
    (folder / file).write_text(json.dumps(settings))
    return folder


def refused(
    load: Callable[[], object], mark: Path, reason: str = "code of the model's own"
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert not mark.exists()


CLIP_CASES: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "config": ("config.json", (), {"model_type": "planted"}),
    "known config": ("config.json", (), {}),
    "text tower": ("config.json", ("text_config",), {}),
    "tokenizer": ("tokenizer_config.json", (), {"tokenizer_class": "Planted"}),
    "processor": ("preprocessor_config.json", (), {"image_processor_type": "Planted"}),
    "inner processor": ("processor_config.json", ("image_processor",), {}),
}


@pytest.mark.parametrize("case", CLIP_CASES)
def test_in_a_clip(case: str, clip_dir: Path, tmp_path: Path, mark: Path) -> None:
    file, path, more = CLIP_CASES[case]
    folder = plant(shutil.copytree(clip_dir, tmp_path / "clip"), mark, file, *path, **more)
    refused(lambda: load_scorer(f"hf:{folder}"), mark)
    refused(lambda: load_scorer(folder), mark)
    refused(lambda: load_trainable_transformers("start", str(folder), scratch=False), mark)
    refused(lambda: load_trainable_transformers("start", str(folder), scratch=True), mark)


def test_in_an_adapter_of_another_model(clip_dir: Path, tmp_path: Path, mark: Path) -> None:
    other = plant(tmp_path, mark, "config.json", model_type="planted")
    folder = shutil.copytree(clip_dir, tmp_path / "clip")
    adapter = {"base_model_name_or_path": str(other), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    refused(lambda: load_scorer(folder), mark, "got an adapter")


def test_in_backbones_and_dual_encoders(tmp_path: Path, mark: Path) -> None:
    text, image = tiny_backbones(tmp_path)
    saved = tmp_path / "saved"
    DualEncoder.from_backbones(str(text), str(image), embed_dim=8).save_pretrained(saved)
    plant(saved / "tokenizer", mark, "tokenizer_config.json", tokenizer_class="Planted")
    refused(lambda: load_scorer(saved), mark)
    plain = str(shutil.copytree(text, tmp_path / "plain"))
    plant(text, mark, "tokenizer_config.json", tokenizer_class="Planted")
    refused(lambda: DualEncoder.from_backbones(str(text), str(image)), mark)
    plant(image, mark, "config.json", model_type="planted")
    refused(lambda: DualEncoder.from_backbones(plain, str(image)), mark)
    plant(saved, mark, "dual_encoder.json", "text", model_type="planted")
    refused(lambda: load_scorer(saved), mark)


def open_clip_folder(folder: Path, **text: Any) -> Path:
    folder.mkdir(exist_ok=True)
    tower = {"layers": 1, "width": 16}
    model = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "head_width": 8, **tower},
        "text_cfg": {"context_length": 16, "vocab_size": 600, "heads": 2, **tower, **text},
    }
    settings = {"model_cfg": model, "preprocess_cfg": {"size": 16}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    (folder / "open_clip_model.safetensors").write_bytes(b"")
    return folder


def test_in_an_open_clip_folder(tmp_path: Path, mark: Path) -> None:
    folder = open_clip_folder(
        tmp_path / "kwargs", hf_tokenizer_name="x", tokenizer_kwargs={"trust_remote_code": True}
    )
    plant(folder, mark, "tokenizer_config.json", tokenizer_class="Planted")
    refused(lambda: load_scorer(folder), mark, "code of the model's own")
    (folder / "tokenizer_config.json").write_text("{}")
    refused(lambda: load_scorer(folder), mark, "got tokenizer_kwargs 'trust_remote_code'")
    other = plant(tmp_path, mark, "config.json", model_type="planted")
    folder = open_clip_folder(tmp_path / "named", hf_model_name=str(other))
    refused(lambda: load_scorer(folder), mark)


@pytest.mark.parametrize("library", ["transformers", "diffusers"])
@pytest.mark.parametrize("automatic", ["AutoModel", "AutoTokenizer"])
def test_in_a_component_of_a_pipeline(
    library: str, automatic: str, tiny_models: Path, tmp_path: Path, mark: Path
) -> None:
    folder = shutil.copytree(tiny_models / "pipe", tmp_path / "pipe")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder" if automatic == "AutoModel" else "tokenizer"] = [library, automatic]
    (folder / "model_index.json").write_text(json.dumps(index))
    plant(folder / "tokenizer", mark, "tokenizer_config.json", tokenizer_class="Planted")
    plant(folder / "text_encoder", mark, "config.json", model_type="planted")
    refused(lambda: load_pipeline(folder), mark)


def test_in_a_pipeline_of_its_own_class_or_library(
    tiny_models: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = plant(shutil.copytree(tiny_models / "pipe", tmp_path / "pipe"), mark, "x.json")
    (folder / "x.json").unlink()
    monkeypatch.syspath_prepend(str(folder))  # the working folder is where Python looks
    index = json.loads((folder / "model_index.json").read_text())
    for key, value, reason in (
        ("_class_name", ["planted", "Planted"], "got a pipeline class of its own"),
        ("unet", ["planted", "Planted"], "got component unet of 'planted'"),
        ("unet", [["planted"], "Planted"], "got component unet of"),
    ):
        (folder / "model_index.json").write_text(json.dumps(index | {key: value}))
        refused(lambda: load_pipeline(folder), mark, reason)


def test_in_an_autoencoder(tmp_path: Path, mark: Path) -> None:
    AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    assert load_autoencoder(f"{tmp_path}:vae") is not None
    plant(tmp_path / "vae", mark, "config.json", _class_name="Planted")
    refused(lambda: load_decoder(tmp_path / "vae"), mark)
    refused(lambda: load_autoencoder(f"{tmp_path}:vae"), mark)


class Planted:
    """A pickle of it writes the file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "ran")


def pickled(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps({"weight": Planted(mark)}))


@pytest.mark.parametrize("keep", [True, False])
def test_an_index_of_safetensors_names_safetensors_alone(
    keep: bool, clip_dir: Path, tmp_path: Path, mark: Path
) -> None:
    folder = shutil.copytree(clip_dir, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    if not keep:
        (folder / "model.safetensors").unlink()
    for shard, reason in (
        ("decoy.bin", "got weights 'decoy.bin' in model.safetensors.index.json"),
        ("../decoy.safetensors", "expected files of its own folder"),
        ("gone.safetensors", "got no gone.safetensors"),
    ):
        pickled(folder / shard, mark) if shard != "gone.safetensors" else None
        index = {"weight_map": dict.fromkeys(weights, shard)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        refused(lambda: load_scorer(folder), mark, reason)


def test_pickles_beside_safetensors_of_an_open_clip_folder(
    tiny_open_clip: str, tmp_path: Path, mark: Path
) -> None:
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random")
    config = {"model_cfg": open_clip.get_model_config(tiny_open_clip), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    for decoy in ("open_clip_pytorch_model.bin", "pytorch_model.bin", "model.pth"):
        pickled(tmp_path / decoy, mark)
        for name in ("other.safetensors", "model.safetensors", "open_clip_model.safetensors"):
            save_file(scorer.model.module.state_dict(), tmp_path / name)
            if name.startswith("open_clip"):  # which open_clip takes before any other
                assert load_scorer(tmp_path).content_hash == scorer.content_hash
            else:
                refused(lambda: load_scorer(tmp_path), mark, r"expected open_clip_model.safet")
            (tmp_path / name).unlink()
        (tmp_path / decoy).unlink()


@pytest.mark.parametrize("component", ["unet", "text_encoder"])
def test_pickles_of_a_pipeline(
    component: str, tiny_models: Path, tmp_path: Path, mark: Path
) -> None:
    folder = shutil.copytree(tiny_models / "pipe", tmp_path / "pipe")
    file = next((folder / component).glob("*.safetensors"))
    weights = load_file(file)
    file.unlink()
    pickled(file.with_suffix(".bin"), mark)
    pickled(folder / component / "pytorch_model.bin", mark)
    refused(lambda: load_pipeline(folder), mark, "cannot be loaded")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, f"{file.stem}.bin")}
    Path(f"{file}.index.json").write_text(json.dumps(index))
    refused(lambda: load_pipeline(folder), mark, "expected .safetensors")
