"""Image sides of models: processors that do not go with a tower are refused at loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from tiny_clip import tiny_clip_dir
from tiny_text_models import BERT, TOWER, change, refused, words_tokenizer
from transformers import (
    CLIPImageProcessor,
    ConvNextImageProcessor,
)

from clipguide.clip.transformers_clip import read_preprocess

NAFLEX = transformers.Siglip2ImageProcessor().to_dict()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"do_center_crop": False}, "expected a centre crop"),
        ({"do_resize": False, "do_center_crop": False}, "expected a centre crop"),
        ({"crop_size": {"height": 48, "width": 48}}, "does not take its preprocessing's 48x48"),
        ({"crop_size": {"longest_edge": 48}}, "got size .*expected shortest_edge, or height and"),
        ({"image_mean": [0.5]}, r"got image_mean [\[(]0.5,?[\])], expected three numbers"),
        ({"image_std": "x"}, "got image_std x, expected three numbers"),
        ({"image_processor_type": "Siglip2ImageProcessor", **NAFLEX}, "NaFlex"),
    ],
)
def test_processors_that_do_not_go_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    folder = tiny_clip_dir(tmp_path)
    change(folder / "preprocessor_config.json", **settings)
    refused(folder, words)


def test_naflex_models_are_refused(tmp_path: Path) -> None:
    vision = {**TOWER, "num_patches": 16, "patch_size": 8}
    text = {**BERT, "vocab_size": 20, "max_position_embeddings": 8, "projection_size": 32}
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    transformers.Siglip2Model(config).save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path)
    refused(tmp_path, "NaFlex")
    size = {"height": 32, "width": 32}  # a processor of another kind does not make it one
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(tmp_path)
    refused(tmp_path, "does not take its preprocessing's 32x32 pixels")


@pytest.mark.parametrize("edge", [32, 384])
def test_convnexts_own_crop(edge: int) -> None:
    """Truth: the library's processor (which uses Pillow)."""
    kind: Any = getattr(transformers, "ConvNextImageProcessorPil", ConvNextImageProcessor)
    processor = kind(size={"shortest_edge": edge}, crop_pct=0.875)
    noise = torch.rand((3, 50, 61), generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(noise.mul(255).byte().permute(1, 2, 0).numpy())
    truth = processor(image, return_tensors="pt")["pixel_values"][0]
    preprocess = read_preprocess(processor.to_dict(), "test")
    got = preprocess.normalize(preprocess.from_pil(image).float() / 255)
    assert torch.allclose(got, truth, atol=1e-5)
