"""Directional, style, aesthetic and preference rewards against slow and published versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_rewards import generators, images
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.patch_tokens import patch_tokens
from clipguide.clip.scorer import Scorer
from clipguide.images import to_pil
from clipguide.rewards import (
    AestheticReward,
    DirectionalReward,
    StyleReward,
    Views,
)
from clipguide.rewards.aesthetic import load_aesthetic_head


@pytest.fixture(scope="module")
def open_scorer(tiny_open_clip: str) -> Scorer:
    return load_scorer(f"open_clip:{tiny_open_clip}/random")


# ------------------------------------------------------------------------------------- directional


def test_directional_equals_its_formula(tiny_scorer: Scorer, tmp_path: Path) -> None:
    x, source = images(3, 32), images(1, 32, seed=5)
    texts = [tiny_scorer.encode_text([text])[0].tolist() for text in ("a fox", "a cat")]
    towards = [b - a for a, b in zip(*texts, strict=True)]
    start = tiny_scorer.encode_image(source)[0].tolist()
    expected: list[float] = []
    for row in tiny_scorer.encode_image(x, match="smooth").tolist():
        moved = [a - b for a, b in zip(row, start, strict=True)]
        dot = sum(a * b for a, b in zip(moved, towards, strict=True))
        lengths = [sum(a * a for a in vector) ** 0.5 for vector in (moved, towards)]
        expected.append(dot / (lengths[0] * lengths[1]))
    reward = DirectionalReward(tiny_scorer, "a fox", "a cat", source)
    torch.testing.assert_close(reward(x), torch.tensor(expected), atol=1e-5, rtol=0)
    to_pil(source)[0].save(tmp_path / "source.png")
    for given in (tmp_path / "source.png", to_pil(source)[0]):
        saved = DirectionalReward(tiny_scorer, "a fox", "a cat", given)
        torch.testing.assert_close(saved(x), reward(x), atol=1e-2, rtol=0)


def test_the_source_itself_has_a_gradient_without_nan(tiny_scorer: Scorer) -> None:
    x = images(1, 32).requires_grad_()
    value = DirectionalReward(tiny_scorer, "a fox", "a cat", x.detach())(x)
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert value.isfinite().all()


def test_directional_of_latents_moves_from_the_teachers_vector(starter_assets: Any) -> None:
    scorer: Any = load_scorer("starter:latent")
    source = images(1, 64)
    reward = DirectionalReward(scorer, "a red star", "a blue star", source)
    z = torch.randn(2, scorer.channels, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = scorer.encode_latents(z, 0.5) - load_scorer("starter").encode_image(source)
    a, b = scorer.encode_text(["a red star", "a blue star"])
    expected = torch.nn.functional.cosine_similarity(moved, (b - a)[None])
    torch.testing.assert_close(reward.of_latents(z, 0.5), expected, atol=1e-5, rtol=0)


def test_texts_without_a_direction(tiny_scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="got source 'a' and target 'a' of one vector"):
        DirectionalReward(tiny_scorer, "a", "a", images(1))


@pytest.mark.parametrize("picture", [images(3), torch.zeros(32, 32), torch.zeros(1, 32, 32), None])
def test_one_picture_is_meant(tiny_scorer: Scorer, picture: Any) -> None:
    with pytest.raises(ValueError, match="got a picture of"):
        DirectionalReward(tiny_scorer, "a red star", "a blue star", picture)
    with pytest.raises(ValueError, match="got a picture of"):
        StyleReward(tiny_scorer, picture)


# ------------------------------------------------------------------------------------------- style


def slow_gram(features: Tensor) -> np.ndarray[Any, Any]:
    rows = features.double().tolist()  # (N, C)
    return np.array([[sum(row[i] * row[j] for row in rows) / len(rows)
                      for j in range(len(rows[0]))] for i in range(len(rows[0]))])  # fmt: skip


def hooked(block: Any, run: Any) -> Tensor:
    """What a block returns."""
    seen: list[Any] = []
    handle = block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    run()
    handle.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_style_equals_loops_over_tokens(
    tiny_scorer: Scorer, open_scorer: Scorer, library: str, layer: int
) -> None:
    scorer = tiny_scorer if library == "transformers" else open_scorer
    module: Any = scorer.model.module
    blocks = (
        module.vision_model.encoder.layers
        if library == "transformers"
        else module.visual.transformer.resblocks
    )
    x, style = images(2, 32), images(1, 32, seed=7)
    grams: list[Any] = []
    for one in (*x, style[0]):
        pixels = scorer.preprocess(one[None], match="smooth")
        tokens = hooked(blocks[layer - 1], lambda p=pixels: scorer.model.encode_image(p))
        grams.append(slow_gram(tokens[0, 1:]))  # without the class token
    wanted = grams.pop()
    expected = [-np.linalg.norm(g - wanted) / np.linalg.norm(wanted) for g in grams]
    found = StyleReward(scorer, style, layer)(x)
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=1e-5, rtol=0)
    assert float(StyleReward(scorer, style, layer)(style)) == 0


def test_the_layers_of_an_encoder_with_a_cnn(tmp_path: Path) -> None:
    """A dual encoder's stages are its layers."""
    from tiny_backbones import tiny_backbones

    from clipguide.clip.dual_encoder import DualEncoder

    text, image = tiny_backbones(tmp_path)
    model = DualEncoder.from_backbones(str(text), str(image)).eval()
    height, width = model.preprocess.crop or model.preprocess.size
    pixels = torch.rand(2, 3, height, width)
    layers = patch_tokens(model, pixels)
    last: Tensor = model.image.model(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(layers[-1].mT, last.flatten(2))


def test_style_has_a_gradient_and_views(tiny_scorer: Scorer) -> None:
    style, views = images(1, 32, seed=7), Views(count=2, crop=(0.5, 1.0))
    x = images(2, 32).requires_grad_()
    reward = StyleReward(tiny_scorer, style, views=views)
    assert reward.layer == 1  # a quarter of two
    value = reward(x, generators=generators(1, 2))
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().amax() > 0
    plain = StyleReward(tiny_scorer, style)
    seen = plain(views(x, generators(1, 2))).view(2, 2).mean(1)
    torch.testing.assert_close(value, seen)
    with pytest.raises(ValueError, match="got layer 3, expected 1 to 2"):
        StyleReward(tiny_scorer, style, 3)


# --------------------------------------------------------------------------------------- aesthetic

GOLDEN = ["laion_linear_vit_l_14", "laion_linear_vit_b_32"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values_of_the_published_heads(shared_data: Path, name: str) -> None:
    file = shared_data / "aesthetic" / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    stored = load_file(file)
    found = load_aesthetic_head(file)(stored["rating_embeddings"]).squeeze(-1)
    torch.testing.assert_close(found, stored["expected_scores"], atol=1e-4, rtol=0)


def test_the_head_of_several_layers_is_their_product(shared_data: Path) -> None:
    file = shared_data / "aesthetic" / "sac_logos_ava1_l14_mlp.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file}")
    stored = {name: tensor.double().numpy() for name, tensor in load_file(file).items()}
    x = torch.nn.functional.normalize(torch.randn(5, 768), dim=-1)
    state = x.double().numpy()
    for place in (0, 2, 4, 6, 7):  # dropout between them, no activation
        state = state @ stored[f"layers.{place}.weight"].T + stored[f"layers.{place}.bias"]
    found = load_aesthetic_head(file)(x).double().numpy()
    np.testing.assert_allclose(found, state, atol=1e-5)


def head_file(folder: Path, width: int = 16, **more: Tensor) -> Path:
    torch.manual_seed(0)
    file = folder / "head.safetensors"
    save_file({"weight": torch.randn(1, width), "bias": torch.ones(1), **more}, file)
    return file


def test_a_rating_is_linear_in_the_vector(tiny_scorer: Scorer, tmp_path: Path) -> None:
    file, x = head_file(tmp_path), images(3, 32)
    weight = load_file(file)["weight"][0].tolist()
    vectors = tiny_scorer.encode_image(x, match="smooth").tolist()
    expected = [1 + sum(a * b for a, b in zip(row, weight, strict=True)) for row in vectors]
    reward = AestheticReward(tiny_scorer, file)
    torch.testing.assert_close(reward(x), torch.tensor(expected), atol=1e-5, rtol=0)
    views = Views(count=3, crop=(0.5, 1.0))
    viewed = AestheticReward(tiny_scorer, file, views)(x, generators=generators(1, 2, 3))
    each = reward(views(x, generators(1, 2, 3))).view(3, 3).mean(1)
    torch.testing.assert_close(viewed, each)


def test_a_head_inside_a_whole_model_is_found(tmp_path: Path) -> None:
    """As the published repositories hold them."""
    whole = {
        "vision_model.encoder.layers.0.weight": torch.randn(4, 4),
        "vision_model.encoder.layers.0.bias": torch.randn(4),
        "visual_projection.weight": torch.randn(4, 4),
    }
    linear = {"predictor.weight": torch.randn(1, 4), "predictor.bias": torch.zeros(1)}
    save_file(whole | linear, tmp_path / "linear.safetensors")
    found = load_aesthetic_head(tmp_path / "linear.safetensors")(torch.eye(4))
    torch.testing.assert_close(found, linear["predictor.weight"].T)
    several = {
        "mlp.layers.0.weight": torch.randn(3, 4), "mlp.layers.0.bias": torch.randn(3),
        "mlp.layers.10.weight": torch.randn(1, 2), "mlp.layers.10.bias": torch.randn(1),
        "mlp.layers.2.weight": torch.randn(2, 3), "mlp.layers.2.bias": torch.randn(2),
    }  # fmt: skip
    save_file(whole | several, tmp_path / "several.safetensors")
    state = torch.eye(4)
    for place in (0, 2, 10):  # by number, not by name
        state = state @ several[f"mlp.layers.{place}.weight"].T
        state = state + several[f"mlp.layers.{place}.bias"]
    found = load_aesthetic_head(tmp_path / "several.safetensors")(torch.eye(4))
    torch.testing.assert_close(found, state)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.randn(1, 16)}, "expected linear layers down to one number"),
        ({"weight": torch.randn(2, 16), "bias": torch.ones(2)}, "expected linear layers"),
        ({"other": torch.ones(1)}, "expected linear layers"),
        ({"weight": torch.full((1, 16), torch.nan), "bias": torch.ones(1)}, "NaN or infinite"),
        ({"weight": torch.randn(1, 8), "bias": torch.ones(1)}, "vectors of 8 numbers, expected 16"),
    ],
)
def test_files_that_are_no_head(
    tiny_scorer: Scorer, tmp_path: Path, tensors: Any, message: str
) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match=message):
        AestheticReward(tiny_scorer, tmp_path / "head.safetensors")


def test_heads_that_are_not_there(tiny_scorer: Scorer, tmp_path: Path) -> None:
    for name in ("laion", "nothing.safetensors", "a/b.safetensors"):
        with pytest.raises(ValueError, match="expected one of laion-l14, laion-b32, sac-l14, a "):
            AestheticReward(tiny_scorer, name)
    with pytest.raises(ValueError, match="laion-l14: cannot be loaded"):  # no network in tests
        AestheticReward(tiny_scorer, "laion-l14")
    (tmp_path / "head.pth").touch()
    with pytest.raises(ValueError, match=r"got \.pth, expected"):
        AestheticReward(tiny_scorer, tmp_path / "head.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad\.safetensors: cannot be loaded"):
        AestheticReward(tiny_scorer, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="without a scorer"):
        AestheticReward(None, head_file(tmp_path))
