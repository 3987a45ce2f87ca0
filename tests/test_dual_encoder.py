"""The dual encoder against a forward pass spelled out by hand; saved, loaded, scored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from slow_towers import by_hand, distilbert_by_hand, resnet_by_hand
from tiny_backbones import (
    COLORS,
    SHAPES,
    draw,
    tiny_backbones,
    tiny_image,
    tiny_text,
    tiny_tokenizer,
)
from torch import nn
from transformers import ViTConfig, ViTModel

from clipguide.clip.backbones import IMAGE_POOLINGS, TEXT_POOLINGS, ImageBackbone
from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.loading import load_scorer
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.tokens import PromptTruncated

PREPROCESS = Preprocess(size=(32, 32), crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
PROMPTS = ["a red ball", "there is a dog on the table", "the box"]


def encoder(kind: str = "bert", **settings: object) -> DualEncoder:
    torch.manual_seed(2)
    config = DualEncoderConfig(PREPROCESS, embed_dim=8, **settings)
    model = DualEncoder(tiny_text(kind, layers=5), tiny_image(), tiny_tokenizer(), config)
    return model.double().eval()


def test_the_forward_pass_is_what_it_is_by_hand() -> None:
    model = encoder("distilbert")
    for module in model.image.modules():  # statistics that do something
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    tokens = [model.tokenize([prompt])["input_ids"][0].tolist() for prompt in PROMPTS]
    features = torch.stack([distilbert_by_hand(model.text.model, ids) for ids in tokens])
    expected = by_hand(model.text_head, features)
    assert (model.encode_text(PROMPTS) - expected).abs().max() < 1e-6
    pixels = torch.randn((2, 3, 32, 32), dtype=torch.float64)
    expected = by_hand(model.image_head, resnet_by_hand(model.image.model, pixels))
    assert (model.encode_image(pixels) - expected).abs().max() < 1e-6


@pytest.mark.parametrize("pooling", TEXT_POOLINGS)
def test_padding_does_not_change_a_text(pooling: str) -> None:
    model = encoder(text_pooling=pooling)
    together = model.encode_text(PROMPTS)
    alone = torch.cat([model.encode_text([prompt]) for prompt in PROMPTS])
    assert torch.allclose(together, alone, atol=1e-7)


def test_poolings_are_what_they_say() -> None:
    states = [torch.randn(2, 3, 4) for _ in range(6)]
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert torch.equal(TEXT_POOLINGS["cls"](states, mask), states[5][:, 0])
    assert torch.allclose(TEXT_POOLINGS["mean"](states, mask)[0], states[5][0, :2].mean(0))
    last = (states[2] + states[3] + states[4] + states[5]) / 4
    assert torch.allclose(TEXT_POOLINGS["last4"](states, mask)[0], last[0, :2].mean(0), atol=1e-6)
    levels = TEXT_POOLINGS["levels"](states, mask)[0].split(4)
    for found, state in zip(levels, states[1:], strict=True):
        mean = state[0, :2].mean(0)
        assert torch.allclose(found, mean / mean.norm(), atol=1e-6)
    assert torch.equal(IMAGE_POOLINGS["cls"](states), states[5][:, 0])
    assert torch.allclose(IMAGE_POOLINGS["mean"](states), states[5].mean(1))
    with pytest.raises(ValueError, match="expected tokens for pooling cls"):
        IMAGE_POOLINGS["cls"]([torch.zeros(1, 4, 2, 2)])


def test_levels_of_a_cnn_are_the_means_of_its_last_states() -> None:
    model = encoder(image_pooling="levels")
    pixels = torch.randn((2, 3, 32, 32), dtype=torch.float64)
    states = [model.image.model.embedder(pixels)]
    for stage in model.image.model.encoder.stages:
        states.append(stage(states[-1]))
    found = model.image(pixels)
    assert found.shape == (2, 8 + 8 + 12 + 16 + 24)
    expected = [state.flatten(2).mean(2) for state in states]
    expected = [mean / mean.norm(dim=1, keepdim=True) for mean in expected]
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-9)


def test_levels_of_a_vit_end_with_the_normalised_state() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
    backbone = ViTModel(ViTConfig(image_size=32, patch_size=16, intermediate_size=32, **sizes))
    pixels = torch.randn(2, 3, 32, 32)
    output = backbone.eval()(pixel_values=pixels, output_hidden_states=True)
    found = ImageBackbone(backbone, "levels").eval()(pixels)
    last = output.last_hidden_state.mean(1)
    assert found.shape == (2, 3 * 16)  # the embeddings, layer one, layer two normalised
    assert torch.allclose(found[:, -16:], last / last.norm(dim=1, keepdim=True), atol=1e-6)


def test_a_linear_head_is_what_it_is_by_hand() -> None:
    model = encoder(head="linear", dropout=0.5)
    features = torch.randn((3, 16), dtype=torch.float64)
    linear = model.text_head.projection
    scaled = features / features.norm(dim=1, keepdim=True) * 4.0
    assert torch.allclose(model.text_head(features), scaled @ linear.weight.T + linear.bias)
    trained = model.text_head.train()(features)
    assert not torch.allclose(trained, model.text_head.eval()(features))


def test_an_image_size_is_the_side_of_the_middle_square(folders: tuple[Path, Path]) -> None:
    model = built(folders, image_size=48)
    image = torch.rand(1, 3, 64, 96)
    assert model.preprocess(image).shape == (1, 3, 48, 48)
    middle = model.preprocess(image[..., 16:80])  # of 96 columns, those around the middle
    assert (model.preprocess(image) - middle)[..., 4:44].abs().max() < 0.02


def test_a_text_beyond_the_context_is_cut_with_a_warning() -> None:
    model = encoder(context_length=6)
    with pytest.warns(PromptTruncated, match="got 9 tokens, kept 6"):
        tokens = model.tokenize(["there is a dog on the table"])["input_ids"]
    assert tokens.shape == (1, 6)
    assert tokens[0, -1] == model.tokenize(["a"])["input_ids"][0, -1]


def test_the_scale_is_kept_at_100() -> None:
    model = encoder(logit_scale=20.0)
    assert model.logit_scale == pytest.approx(20.0)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.logit_scale == pytest.approx(100.0)


# --- on disk -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_backbones(tmp_path_factory.mktemp("backbones"))


def built(folders: tuple[Path, Path], **settings: object) -> DualEncoder:
    torch.manual_seed(3)
    model = DualEncoder.from_backbones(*map(str, folders), embed_dim=8, **settings)
    return model.eval()


def test_a_saved_model_is_the_same_model(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model = built(
        folders, text_pooling="last4", image_pooling="levels", head="linear", image_size=48,
        loss="soft", dropout=0.25,
    )  # fmt: skip
    with torch.no_grad():
        model.log_scale.fill_(2.5)
    model.save_pretrained(tmp_path / "saved", {"test R@1": 20.4})
    state = torch.get_rng_state()
    scorer = load_scorer(tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), state)  # loading draws from nobody's generator
    assert scorer.logit_scale == pytest.approx(math.exp(2.5))
    assert scorer.model.config == model.config
    pictures = [draw(color, shape) for color in COLORS for shape in SHAPES]
    with torch.no_grad():
        pixels = model.preprocess.normalize(
            torch.stack([model.preprocess.from_pil(picture) for picture in pictures]).float() / 255
        )
        expected = model.encode_image(pixels) @ model.encode_text(PROMPTS).T
    assert torch.allclose(scorer.similarity(pictures, PROMPTS), expected, atol=1e-6)
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "pipeline_tag" in card
    assert "| test R@1 | 20.4 |" in card
    assert not [*(tmp_path / "saved").glob("*.bin")]


def test_the_backbones_need_not_be_there_any_more(tmp_path: Path) -> None:
    folders = tiny_backbones(tmp_path / "backbones")
    built(folders).save_pretrained(tmp_path / "saved")
    expected = built(folders).encode_text(PROMPTS)
    (tmp_path / "backbones").rename(tmp_path / "gone")
    again = DualEncoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.encode_text(PROMPTS), expected)


@pytest.mark.parametrize("damage", ["model.safetensors", "tokenizer", "version", "width", "kind"])
def test_a_damaged_folder_is_one_clear_error(
    folders: tuple[Path, Path], tmp_path: Path, damage: str
) -> None:
    built(folders).save_pretrained(tmp_path)
    path = tmp_path / "dual_encoder.json"
    settings = json.loads(path.read_text())
    if damage == "model.safetensors":
        (tmp_path / damage).write_bytes(b"nothing")
    elif damage == "tokenizer":
        (tmp_path / damage).rename(tmp_path / "elsewhere")
    elif damage == "version":
        settings["version"] = 99
    elif damage == "width":
        settings["encoder"]["embed_dim"] = 9
    else:
        settings["text"]["model_type"] = "nothing"
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_scorer(tmp_path)


def test_backbones_that_are_not_there_or_not_right_are_named(
    folders: tuple[Path, Path], tiny_models: Path
) -> None:
    with pytest.raises(ValueError, match=r"got no folder \./nothing"):
        DualEncoder.from_backbones("./nothing", str(folders[1]))
    with pytest.raises(ValueError, match="model of two towers"):
        DualEncoder.from_backbones(str(tiny_models / "clip"), str(folders[1]))
    with pytest.raises(ValueError, match=r"got text pooling 'max', expected one of \['cls'"):
        built(folders, text_pooling="max")
    with pytest.raises(ValueError, match=r"got head 'mlp', expected one of \['projection'"):
        built(folders, head="mlp")
    with pytest.raises(ValueError, match=r"got dropout 1\.0"):
        built(folders, dropout=1.0)
