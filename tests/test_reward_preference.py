"""Preference rewards, PickScore and HPSv2.1, against the code that published them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_clip import CLIPImageProcessorPil
from tiny_rewards import generators, images, smooth_cosines
from torch import Tensor

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.rewards import (
    PreferenceReward,
    Reward,
    Views,
)
from clipguide.rewards.preference import load_prefixed


@pytest.fixture(scope="module")
def open_scorer(tiny_open_clip: str) -> Scorer:
    return load_scorer(f"open_clip:{tiny_open_clip}/random")


def pictures() -> list[Image.Image]:
    """Wide, tall and square ones, of 8 bits."""
    sizes = [(41, 29), (23, 50), (48, 48), (64, 21)]
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def tensor_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def test_pickscore_is_what_its_page_says(tiny_models: Path, tiny_scorer: Scorer) -> None:
    """The code of its model card, on a CLIP of the same kind."""
    from transformers import AutoModel, AutoTokenizer

    folder, prompt = tiny_models / "clip", "fantastic, incredible prompt"
    model: Any = AutoModel.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reward = PreferenceReward("pickscore", prompt, tiny_scorer)
    with torch.no_grad():
        tokens = tokenizer(
            prompt, padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        text = model.get_text_features(**tokens)
        text = getattr(text, "pooler_output", text)
        text = text / torch.norm(text, dim=-1, keepdim=True)
        for image in pictures():
            seen = model.get_image_features(**processor(images=image, return_tensors="pt"))
            seen = getattr(seen, "pooler_output", seen)
            seen = seen / torch.norm(seen, dim=-1, keepdim=True)
            expected = model.logit_scale.exp() * (text @ seen.T)[0]
            torch.testing.assert_close(reward(tensor_of(image)), expected, atol=1e-5, rtol=1e-5)


def test_hpsv21_is_what_its_code_says(open_scorer: Scorer) -> None:
    """`hpsv2/img_score.py` and its `image_transform(resize_longest_max=True)`."""
    import torchvision.transforms.functional as F
    from torchvision.transforms import InterpolationMode, Normalize, ToTensor

    module: Any = open_scorer.model.module
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    reward = PreferenceReward("hpsv2.1", "a red fox", open_scorer)
    text = open_scorer.encode_text("a red fox")
    for image in pictures():
        x = ToTensor()(image)
        height, width = x.shape[1:]
        scale = 32 / float(max(height, width))
        size = [round(side * scale) for side in (height, width)]
        x = F.resize(x, size, InterpolationMode.BICUBIC, antialias=True)
        down, right = 32 - size[0], 32 - size[1]
        x = F.pad(x, [right // 2, down // 2, right - right // 2, down - down // 2], fill=0)
        with torch.no_grad():
            seen = module.encode_image(Normalize(mean, std)(x)[None], normalize=True)
            expected = (seen @ text.T)[0]
        torch.testing.assert_close(reward(tensor_of(image)), expected, atol=1e-5, rtol=0)


def test_weights_of_a_copy_have_a_prefix(
    tiny_open_clip: str, open_scorer: Scorer, tmp_path: Path
) -> None:
    other = {name: w + 0.01 * torch.ones_like(w) for name, w in
             open_scorer.model.module.state_dict().items() if w.is_floating_point()}  # fmt: skip
    name, x = f"open_clip:{tiny_open_clip}", images(2, 32)
    save_file(other, tmp_path / "plain.safetensors")
    save_file({f"model.{key}": w for key, w in other.items()}, tmp_path / "copy.safetensors")
    plain = load_scorer(f"{name}/{tmp_path / 'plain.safetensors'}")
    copy = load_prefixed(name, tmp_path / "copy.safetensors")
    assert torch.equal(plain.encode_image(x), copy.encode_image(x))
    save_file({"model.visual.proj": torch.ones(2)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        load_prefixed(name, tmp_path / "bad.safetensors")


@pytest.mark.parametrize("name", ["pickscore", "hpsv2.1"])
def test_preference_of_several_prompts_with_views(tiny_scorer: Scorer, name: str) -> None:
    x, views = images(4, 32), Views(count=2, crop=(0.5, 1.0))
    both = PreferenceReward(name, ["a fox", "a cat"], tiny_scorer, views)
    single: list[Reward] = [PreferenceReward(name, p, tiny_scorer) for p in ("a fox", "a cat")]
    seen = views(x, generators(1, 2, 3, 4))
    expected = torch.cat([single[0](seen[:4]), single[1](seen[4:])]).view(4, 2).mean(1)
    torch.testing.assert_close(both(x, generators=generators(1, 2, 3, 4)), expected)
    y = x.clone().requires_grad_()
    single[0](y).sum().backward()
    assert y.grad is not None
    assert y.grad.abs().amax() > 0


def test_square_pictures_of_the_right_size_are_the_cosine(tiny_scorer: Scorer) -> None:
    x = images(2, 32)
    found = PreferenceReward("hpsv2.1", "a fox", tiny_scorer)(x)
    torch.testing.assert_close(found, smooth_cosines(tiny_scorer, x, "a fox"), atol=1e-6, rtol=0)


def test_preferences_that_are_not_there(tiny_scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="got preference 'hps', expected one of pickscore, hpsv2"):
        PreferenceReward("hps", "a fox", tiny_scorer)
    with pytest.raises(ValueError, match="yuvalkirstain/PickScore_v1: cannot be loaded"):
        PreferenceReward("pickscore", "a fox")
