"""Latent towers cut from a teacher's image tower, against the teacher itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import MobileNetV2Config, MobileNetV2Model, ViTConfig, ViTModel

from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.latent_teacher import TeacherTower, TeacherTowerShape
from clipguide.clip.loading import load_scorer
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer
from clipguide.clip.teacher_tails import cut
from clipguide.clip.weights import hash_weights
from tests.tiny_backbones import tiny_image, tiny_text, tiny_tokenizer
from tests.tiny_clip import tiny_clip_dir

SHAPE = TeacherTowerShape(channels=4, cells=8, stem_width=16, stem_blocks=2, level_width=16)


def dual_encoder(image: torch.nn.Module, side: int, pooling: str = "mean") -> Scorer:
    """A dual encoder on an image backbone, whose batch normalisation has seen something."""
    for module in image.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
            running = dict(module.named_buffers())
            torch.nn.init.normal_(running["running_mean"], std=0.2)
            torch.nn.init.uniform_(running["running_var"], 0.5, 2.0)
    preprocess = Preprocess((side, side), (side, side), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    config = DualEncoderConfig(preprocess, embed_dim=8, image_pooling=pooling, head="linear")
    return Scorer(DualEncoder(tiny_text(), image, tiny_tokenizer(), config, "toy"))


def mobilenet() -> Scorer:
    torch.manual_seed(2)
    return dual_encoder(MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25)), 64, "levels")


def resnet() -> Scorer:
    return dual_encoder(tiny_image(), 64)


@pytest.fixture(params=["mobilenet", "resnet", "transformers", "open_clip"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path) -> Scorer:
    if request.param == "transformers":
        return load_scorer(tiny_clip_dir(tmp_path / "clip"))
    if request.param == "open_clip":
        name = request.getfixturevalue("tiny_open_clip")
        return load_scorer(f"open_clip:{name}/random")
    return mobilenet() if request.param == "mobilenet" else resnet()


def pictures(scorer: Scorer, count: int = 3) -> torch.Tensor:
    size = scorer.preprocess.crop or scorer.preprocess.size
    return torch.rand((count, 3, *size), generator=torch.Generator().manual_seed(1))


def tower_of(scorer: Scorer, **shape: int) -> TeacherTower:
    torch.manual_seed(0)  # of the stem's weights and of what a test draws after it
    return TeacherTower.from_teacher(TeacherTowerShape(**{**vars(SHAPE), **shape}), scorer.model)


def test_on_the_teachers_features_it_is_the_teacher(teacher: Scorer) -> None:
    images = pictures(teacher)
    before = hash_weights(teacher.model.module)
    tower = tower_of(teacher)
    features = cut(teacher.model, 8).features(teacher.preprocess(images))
    tower.set_statistics(features)
    with torch.no_grad():
        for level in (torch.zeros(3), torch.tensor([0.2, 0.7, 1.0])):
            vectors = tower.from_features(tower.standardized(features), level)
            found = functional.normalize(vectors, dim=-1)
            assert torch.allclose(found, teacher.encode_image(images), atol=1e-5)
    with torch.no_grad():
        for weight in tower.parameters():
            weight.add_(1.0)
    assert hash_weights(teacher.model.module) == before  # its weights are copied, not shared


def test_the_stem_speaks_in_units_of_the_features(teacher: Scorer) -> None:
    tower = tower_of(teacher)
    features = cut(teacher.model, 8).features(teacher.preprocess(pictures(teacher, 4)))
    tower.set_statistics(features)
    plain = tower.standardized(features).transpose(0, 1).flatten(1)
    assert torch.allclose(plain.mean(1), torch.zeros(len(plain)), atol=1e-3)
    varied = features.transpose(0, 1).flatten(1).std(1) > 0  # ReLU leaves some channels silent
    assert varied.any()
    assert torch.allclose(plain.std(1), varied.float(), atol=1e-3)


@pytest.mark.parametrize("channels", [4, 16, 32])
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (7, 13)])
def test_latents_of_any_size(teacher: Scorer, channels: int, size: tuple[int, int]) -> None:
    tower = tower_of(teacher, channels=channels).requires_grad_(False)
    latents = torch.randn((2, channels, *size), requires_grad=True)
    vectors = tower(latents, torch.tensor([0.1, 0.9]))
    assert vectors.shape == (2, teacher.embed_dim)
    (gradient,) = torch.autograd.grad(vectors.square().sum(), latents)
    assert bool((gradient.abs().flatten(2).sum(dim=2) > 0).all())


def test_each_row_by_itself(teacher: Scorer) -> None:
    """A batch gives what its rows give alone, in training as in evaluation mode."""
    tower = tower_of(teacher).train()
    latents, levels = torch.randn(3, 4, 8, 8), torch.tensor([0.0, 0.5, 0.95])
    with torch.no_grad():
        for weight in tower.scales.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        whole = tower(latents, levels)
        rows = [tower(latents[i : i + 1], levels[i : i + 1]) for i in range(3)]
        assert torch.allclose(whole, torch.cat(rows), atol=1e-5)
        assert torch.equal(whole, tower.eval()(latents, levels))
        other = tower(latents, levels.flip(0))
    assert not torch.allclose(whole[0], other[0], atol=1e-3)  # the noise level is read


def test_gradient_against_central_differences(tmp_path: Path) -> None:
    scorer = load_scorer(tiny_clip_dir(tmp_path / "clip"))
    tower = tower_of(scorer).double().requires_grad_(False)
    latents = torch.randn((1, 4, 8, 8), dtype=torch.float64, requires_grad=True)
    level, direction = torch.tensor([0.6], dtype=torch.float64), torch.randn(1, 4, 8, 8).double()
    target = torch.randn(scorer.embed_dim, dtype=torch.float64)

    def value(x: torch.Tensor) -> torch.Tensor:
        return functional.normalize(tower(x, level), dim=-1)[0] @ target

    (gradient,) = torch.autograd.grad(value(latents), latents)
    step = 1e-5
    with torch.no_grad():
        ahead, behind = value(latents + step * direction), value(latents - step * direction)
    slope = float((ahead - behind) / (2 * step))
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6)


def test_other_layouts_are_refused_by_name() -> None:
    vit = ViTModel(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=64, patch_size=16,
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"got a ViTModel of a DualEncoder.*MobileNetV2Model"):
        tower_of(dual_encoder(vit.eval(), 64))
    with pytest.raises(ValueError, match=r"pooling 'levels' of a ResNetModel.*expected 'mean'"):
        tower_of(dual_encoder(tiny_image(), 64, "levels"))
    with pytest.raises(ValueError, match=r"reads states before the grid of 1"):
        tower_of(mobilenet(), cells=1)


def test_a_tower_with_parts_beside_its_blocks_is_refused(tmp_path: Path) -> None:
    scorer = load_scorer(tiny_clip_dir(tmp_path / "clip"))
    model: Any = scorer.model.module
    model.visual_projection = torch.nn.Sequential(model.visual_projection, torch.nn.Tanh())
    model.visual_projection.weight = model.visual_projection[0].weight
    with pytest.raises(ValueError, match="parts beside its blocks"):
        tower_of(scorer)


@pytest.mark.parametrize("wrong", [{"cells": 0}, {"stem_width": 12}, {"channels": 0}])
def test_shapes_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected numbers of 1 or more"):
        TeacherTowerShape(**wrong)
