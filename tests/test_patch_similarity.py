"""Cosines of patches with a phrase, against the library's own with a patch for its class token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from tiny_backbones import tiny_image, tiny_text, tiny_tokenizer
from torch import Tensor

from clipguide.clip.dual_encoder import DualEncoder, DualEncoderConfig
from clipguide.clip.loading import load_scorer
from clipguide.clip.patch_similarity import patch_similarity
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.scorer import Scorer


def shown_as_class_token(block: Any, place: int) -> Any:
    """The last block hands on the token of a patch in the place of the class token."""

    def swapped(_module: Any, _given: Any, output: Any) -> Any:
        states: Tensor = output[0] if isinstance(output, tuple) else output
        states = torch.cat([states[:, place + 1 : place + 2], states[:, 1:]], dim=1)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return block.register_forward_hook(swapped)


@pytest.mark.parametrize("library", ["transformers", "open_clip"])
def test_a_patch_is_what_the_model_says_of_its_token(
    tiny_scorer: Scorer, tiny_open_clip: str, library: str
) -> None:
    open_clip = library == "open_clip"
    scorer = load_scorer(f"open_clip:{tiny_open_clip}/random") if open_clip else tiny_scorer
    module: Any = scorer.model.module
    blocks = (
        module.visual.transformer.resblocks if open_clip else module.vision_model.encoder.layers
    )
    image = Image.effect_noise((40, 50), 90).convert("RGB")
    found = patch_similarity(scorer, image, "a red fox")
    assert found.shape == (4, 4)
    assert float(found.std()) > 0.01
    for place in range(16):
        hook = shown_as_class_token(blocks[-1], place)
        expected = float(scorer.score([image], "a red fox"))
        hook.remove()
        assert float(found.flatten()[place]) == pytest.approx(expected, abs=1e-5)


def test_a_model_without_vectors_of_patches_is_refused() -> None:
    preprocess = Preprocess((32, 32), (32, 32), (0.5,) * 3, (0.5,) * 3)
    config = DualEncoderConfig(preprocess, embed_dim=8)
    scorer = Scorer(DualEncoder(tiny_text(), tiny_image(), tiny_tokenizer(), config, "toy"))
    with pytest.raises(ValueError, match=r"toy: got a .*, whose patches have no vectors beside"):
        patch_similarity(scorer, Image.new("RGB", (64, 64)), "a red star")
