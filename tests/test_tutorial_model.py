"""The tutorial's model in its real shapes, DistilBERT and ResNet50 at random weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from slow_towers import by_hand, distilbert_by_hand, resnet_by_hand
from tiny_backbones import tiny_tokenizer
from torch import nn
from transformers import (
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    ResNetConfig,
    ResNetModel,
)

from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.heads import ProjectionHead
from clipguide.clip.preprocess import Preprocess
from clipguide.data.pairs import Pairs
from clipguide.training.collapse import CollapseWarning
from training.flickr8k import tutorial

PREPROCESS = Preprocess(size=(64, 64), crop=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    """The configurations' defaults are distilbert-base (6 x 768) and ResNet50 (2048)."""
    torch.manual_seed(0)
    text, image = DistilBertModel(DistilBertConfig()), ResNetModel(ResNetConfig())
    for module in image.modules():  # statistics that do something
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    return DualEncoder(text, image, tiny_tokenizer(), DualEncoderConfig(PREPROCESS)).double().eval()


def test_it_has_the_tutorials_shapes(model: DualEncoder) -> None:
    assert model.text_head.projection.weight.shape == (256, 768)
    assert model.image_head.projection.weight.shape == (256, 2048)
    counts = [sum(p.numel() for p in part.model.parameters()) for part in (model.text, model.image)]
    assert counts == [66_362_880, 23_508_032]  # of distilbert-base-uncased and of ResNet50


@torch.no_grad()
def test_its_forward_pass_is_what_it_is_by_hand(model: DualEncoder) -> None:
    prompts = ["a red ball on the table", "there is a dog"]
    tokens = [model.tokenize([prompt])["input_ids"][0].tolist() for prompt in prompts]
    features = torch.stack([distilbert_by_hand(model.text.model, ids) for ids in tokens])
    assert (model.encode_text(prompts) - by_hand(model.text_head, features)).abs().max() < 1e-6
    pixels = torch.rand(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator()) * 2 - 1
    features = resnet_by_hand(model.image.model, pixels)
    assert (model.encode_image(pixels) - by_hand(model.image_head, features)).abs().max() < 1e-6
    a, b = model.encode_image(pixels)
    assert float(a @ b) < 0.9999  # two pictures have two vectors


def test_a_folded_head_does_on_features_what_it_did_on_whitened_ones() -> None:
    torch.manual_seed(0)
    rows = torch.randn(20, 30) @ torch.randn(30, 30) + 5
    mean, basis = tutorial.whiten(rows)
    white = (rows - mean) @ basis
    assert white.shape == (20, 19)
    assert (white.T @ white / 20 - torch.eye(19)).abs().max() < 1e-3
    small, head = ProjectionHead(19, 8, 0.1).eval(), ProjectionHead(30, 8, 0.1).eval()
    tutorial.fold(small, head, mean, basis)
    assert (small(white) - head(rows)).abs().max() < 1e-4


def real_pairs_and_random_model(data: Path, seed: int = 0) -> tuple[Pairs, DualEncoder]:
    """The same each time, so each test trains a model of its own."""
    torch.manual_seed(seed)
    pairs = tutorial.first_pairs(data / "flickr8k")
    tokenizer = AutoTokenizer.from_pretrained(data / "backbones" / "minilm_l6")
    return pairs, tutorial.random_model(tokenizer, side=64)


def test_two_epochs_on_64_real_pairs_are_learned_by_heart(shared_data: Path) -> None:
    pairs, model = real_pairs_and_random_model(shared_data)
    before = tutorial.recall(model, pairs)
    assert max(before.values()) < 10
    tutorial.overfit(model, pairs, epochs=2)
    assert tutorial.recall(model, pairs) == {"text_to_image": 100.0, "image_to_text": 100.0}


def first_that_collapses(data: Path) -> tuple[Pairs, DualEncoder, list[float]]:
    """From about half of all starts; which they are differs between versions of torch (2.6: seeds 1
    and 3 of 4, 2.14: 0 and 3), whose dropout draws otherwise."""
    for seed in range(4):
        pairs, model = real_pairs_and_random_model(data, seed)
        losses, collapsed = tutorial.published(model, pairs, epochs=150)
        if collapsed:
            return pairs, model, losses
    pytest.fail("the guard called none of four runs a collapse")


def test_the_published_loss_collapses_and_is_caught(shared_data: Path) -> None:
    with pytest.warns(CollapseWarning, match="every image and caption looks alike"):
        pairs, model, losses = first_that_collapses(shared_data)
    rest = math.log(tutorial.PUBLISHED_BATCH)
    assert all(abs(loss - rest) <= 0.02 * rest for loss in losses[-50:])
    assert max(tutorial.recall(model, pairs).values()) < 20  # 1.6 is chance
