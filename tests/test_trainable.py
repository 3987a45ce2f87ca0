"""A CLIPModel and an open_clip architecture under the same configuration, loop and checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from conftest import CHECKOUT, Outcome
from safetensors.torch import load_file
from tiny_backbones import toy_config
from tiny_clip import tiny_clip_dir
from tiny_training import toy_run
from torch import Tensor
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel

from clipguide.clip.loading import load_scorer
from clipguide.evaluation.recall import recall_report
from clipguide.training.clip_run import ClipRun
from clipguide.training.config import read_config
from clipguide.training.run_files import HISTORY, STATE

ARCHITECTURE = "tiny-trainable"
TEXTS = ["a red ball", "there is a blue box on a table"]
ALL = {"unfreeze_image": -1, "unfreeze_text": -1}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, captions, toy.toml, a CLIPModel in `clip`, an architecture known to open_clip."""
    folder = toy_config(tmp_path_factory.mktemp("toys")).parent
    tiny_clip_dir(folder / "clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 3},
    }  # fmt: skip
    (folder / f"{ARCHITECTURE}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{ARCHITECTURE}.json")
    return folder


def prepare(toys: Path, output: Path, start: str, **train: object) -> ClipRun:
    start = start.replace("TOYS", str(toys))
    model = f'model={{start="{start}", scratch={json.dumps("SCRATCH" in str(output))}}}'
    return toy_run(toys, output, model, **train)


STARTS = [
    ("TOYS/clip", "weights"),
    ("TOYS/clip", "SCRATCH"),
    (f"open_clip:{ARCHITECTURE}", "SCRATCH"),
    (f"open_clip:{ARCHITECTURE}/random", "weights"),
]


@pytest.mark.parametrize(("start", "kind"), STARTS)
def test_what_was_trained_is_what_is_loaded(
    toys: Path, tmp_path: Path, start: str, kind: str
) -> None:
    output = tmp_path / kind
    run = prepare(toys, output, start, **ALL, epochs=1)
    before = {name: value.detach().clone() for name, value in run.model.named_parameters()}
    run.train()
    moved = [n for n, v in run.model.named_parameters() if not torch.equal(v, before[n])]
    assert any(name.startswith("text.") for name in moved)
    assert any(name.startswith("image.") for name in moved)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = run.model.encode_text(TEXTS), run.model.encode_image(pixels)
    scorer = load_scorer(output)
    assert torch.allclose(scorer.encode_text(TEXTS), expected[0], atol=1e-6)
    assert torch.allclose(scorer.model.encode_image(pixels), expected[1], atol=1e-6)
    assert scorer.model.preprocess == run.model.preprocess
    assert scorer.model.logit_scale == pytest.approx(run.model.logit_scale, rel=1e-6)
    assert not [*output.glob(".partial*")]


def test_towers_and_heads_are_the_librarys_own(toys: Path, tmp_path: Path) -> None:
    run = prepare(toys, tmp_path, "TOYS/clip", **ALL)
    model = CLIPModel.from_pretrained(toys / "clip").eval()
    tokens = run.model.tokenize(TEXTS)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = run.model.eval().text_head(run.model.text(**tokens))
        output = model(**tokens, pixel_values=pixels)
        text = torch.nn.functional.normalize(found, dim=1)
        assert torch.allclose(text, output.text_embeds, atol=1e-6)
        assert torch.allclose(run.model.encode_image(pixels), output.image_embeds, atol=1e-6)
    assert run.model.logit_scale == pytest.approx(model.logit_scale.exp().item(), rel=1e-6)


def test_every_parameter_trains_once_and_the_scale_with_them(toys: Path, tmp_path: Path) -> None:
    for number, start in enumerate(("TOYS/clip", f"open_clip:{ARCHITECTURE}/random")):
        run = prepare(toys, tmp_path / str(number), start, **ALL, loss="sigmoid")
        parameters = dict(run.model.named_parameters())
        assert len({id(value) for value in parameters.values()}) == len(parameters)
        assert [name for name, value in parameters.items() if not value.requires_grad] == []
        assert run.loss(0, torch.Generator().manual_seed(0))["loss"].requires_grad


def test_new_weights_come_from_the_seed(toys: Path, tmp_path: Path) -> None:
    def weights(seed: int) -> Tensor:
        run = prepare(toys, tmp_path / "SCRATCH", "TOYS/clip", seed=seed)
        return run.model.text.model.get_parameter("encoder.layers.0.mlp.fc1.weight")

    saved = load_file(toys / "clip" / "model.safetensors")
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert not torch.equal(weights(1), saved["text_model.encoder.layers.0.mlp.fc1.weight"])


@pytest.mark.parametrize("start", ["TOYS/clip", f"open_clip:{ARCHITECTURE}/random"])
def test_the_last_blocks_train_from_kept_states_as_from_live_towers(
    toys: Path, tmp_path: Path, start: str
) -> None:
    states: list[dict[str, Tensor]] = []
    for name in ("", "float32"):
        output = tmp_path / f"{name}."
        settings = {"unfreeze_image": 2, "unfreeze_text": 2, "views": 2, "epochs": 2}
        prepare(toys, output, start, prefix_cache=name, **settings).train()
        states.append(load_file(output / STATE))
    moved = [name for name in states[0] if name.startswith("parameter.")]
    assert any("proj" in name for name in moved)
    assert not any("layers.0." in name or "resblocks.0." in name for name in moved)
    for name in (name for name in moved if "in_proj_bias" not in name and "k_proj.b" not in name):
        assert torch.allclose(states[0][name], states[1][name], atol=2e-5), name


@pytest.mark.parametrize("start", ["TOYS/clip", f"open_clip:{ARCHITECTURE}/random"])
def test_a_stopped_run_goes_on_to_the_bit(toys: Path, tmp_path: Path, start: str) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, _steps: int, _loss: float) -> None:
        if step == 3:
            raise Stop

    settings = {**ALL, "epochs": 2, "ema_decay": 0.9}
    prepare(toys, tmp_path / "whole", start, **settings).train()
    with pytest.raises(Stop):
        prepare(toys, tmp_path / "killed", start, **settings).train(on_step=stop)
    prepare(toys, tmp_path / "killed", start, **settings).train(resume=True)
    for name in (STATE, HISTORY):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_was_saved_is_a_start_again(toys: Path, tmp_path: Path) -> None:
    prepare(toys, tmp_path / "one", f"open_clip:{ARCHITECTURE}/random", **ALL, epochs=1).train()
    again = prepare(toys, tmp_path / "two", str(tmp_path / "one"), **ALL)
    expected = load_scorer(tmp_path / "one").encode_text(TEXTS)
    with torch.no_grad():
        assert torch.allclose(again.model.encode_text(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('model={start="open_clip:ViT-B-33/x"}', "got architecture 'ViT-B-33', expected one of"),
        (
            'model={start="open_clip:roberta-ViT-B-32", scratch=true}',
            "expected towers of open",
        ),
        ('model={start="TEXT"}', "expected a CLIPModel (or model.text and model.image)"),
        ('model={start="IMAGES"}', "expected hf:REPOSITORY, open_clip:ARCH/TAG, or a folder with"),
        ('model={start="CLIP", scratch=2}', "got model.scratch = 2, expected a bool"),
        ('model={start="OPEN", scratch=true}', "got nothing that trains"),
    ],
)
def test_a_mistake_is_one_line(
    toys: Path, tmp_path: Path, cli: Callable[..., Outcome], change: str, message: str
) -> None:
    names = {"TEXT": "text", "IMAGES": "images", "CLIP": "clip"}
    for mark, name in names.items():
        change = change.replace(mark, str(toys / name))
    change = change.replace("OPEN", f"open_clip:{ARCHITECTURE}")
    outcome = cli("train", toys / "toy.toml", "--set", f"output={tmp_path}", "--set", change)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["clip_model", "open_clip"])
def test_a_recipe_runs(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As it stands but for its data, its model and its length."""
    monkeypatch.setenv("CLIPGUIDE_DATA", str(toys))
    start = {"clip_model": str(toys / "clip"), "open_clip": f"open_clip:{ARCHITECTURE}/random"}
    split = '{captions="captions.tsv", images="images"}'
    changes = [f"root={toys}", f"data={{train={split}, dev={split}}}", "train.epochs=2",
               f"output={tmp_path}", f'model={{start="{start[name]}"}}']  # fmt: skip
    config = read_config(CHECKOUT / "training" / "flickr8k" / f"{name}.toml", changes)
    ClipRun(config, recall_report, lambda _: None).train()
    assert load_scorer(tmp_path).embed_dim == 16


def test_a_text_model_alone_is_no_clip(toys: Path, tmp_path: Path) -> None:
    config = CLIPTextConfig(hidden_size=16, intermediate_size=16, num_attention_heads=2,
                            num_hidden_layers=1, vocab_size=64)  # fmt: skip
    CLIPTextModel(config).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="expected a CLIPModel"):
        prepare(toys, tmp_path / "out", str(tmp_path / "text"))
