"""Image-text matching: the probability that BLIP's matching head gives to a pair.

Li et al. 2022, BLIP (https://arxiv.org/abs/2201.12086), section 3.2: a binary classifier over the
text encoder that reads the image by cross-attention; class 1 is a match.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.clip.cross_encoder import CrossEncoderModel
from clipguide.clip.cross_encoder_loading import load_module, model_parts
from clipguide.clip.hub import NO_CODE
from clipguide.clip.settings_hash import hash_settings
from clipguide.clip.tokenizers import PromptTokens
from clipguide.clip.tokens import truncate

CONVENTION = "itm: softmax of the matching head, P(match), the text as it is"
MATCH = 1


class ItmModel(CrossEncoderModel):
    """`BlipForImageTextRetrieval` of transformers. A text beyond its positions is cut with a
    warning (`PromptTruncated`); a special token's name in it is text like any other.

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        image_processor: its own, from a PIL image to pixels.
        tokenizer: its own.
    """

    def __init__(self, name: str, module: nn.Module, image_processor: Any, tokenizer: Any) -> None:
        super().__init__(name, module, CONVENTION)
        self._image_processor = image_processor
        self._tokens = PromptTokens(name, tokenizer)
        config: Any = module.config
        self._longest = int(config.text_config.max_position_embeddings)

    def probability(self, image: Image.Image, text: str) -> float:
        pixels: Mapping[str, Tensor] = self._image_processor(images=image, return_tensors="pt")
        tokens = truncate(self._tokens(text), self._longest, text)
        ids = torch.tensor([tokens], device=self.device)
        found: Any = self.module(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels["pixel_values"].to(self.device, self.dtype),
            use_itm_head=True,
        )
        logits: Tensor = found.itm_score  # (1, 2)
        return float(logits[0].double().softmax(dim=-1)[MATCH])


def load_itm(name: str, source: str, dtype: torch.dtype) -> ItmModel:
    """A folder or a Hub repository with BLIP's retrieval model; safetensors only, no remote code.

    Raises:
        ValueError: it cannot be loaded, or is no BLIP with a matching head.
    """
    from transformers import AutoImageProcessor, AutoTokenizer, BlipForImageTextRetrieval

    folder = model_parts(name, source, kind="blip")
    module = load_module(name, folder, BlipForImageTextRetrieval, dtype)
    image_processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    model = ItmModel(name, module, image_processor, tokenizer)
    model.settings_hash = hash_settings(folder)
    return model
