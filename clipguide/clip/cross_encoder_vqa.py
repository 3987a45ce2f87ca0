"""VQAScore: the probability that a vision-language model answers yes.

Lin et al. 2024, Evaluating Text-to-Visual Generation with Image-to-Text Generation
(https://arxiv.org/abs/2404.01291), Eq. 1: P("Yes" | image, "Does this figure show '{text}'? Please
answer yes or no."). The probability is the softmax over the whole vocabulary at the first token of
the answer, summed over every token that reads yes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from clipguide.clip.cross_encoder import CrossEncoderModel
from clipguide.clip.cross_encoder_loading import load_module, model_parts
from clipguide.clip.hub import NO_CODE
from clipguide.clip.settings_hash import hash_settings

TEMPLATE = "Does this figure show '{text}'? Please answer yes or no."
LEAST = 0.5
"""Of the probability, that yes and no together should have."""


class AnswerNotYesOrNo(UserWarning):
    """A model that is likely to answer something else than yes or no: its score says little."""


class VqaModel(CrossEncoderModel):
    """Any image-text-to-text model of transformers with a chat template of its own.

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        processor: its processor: chat template, tokenizer, image processor.

    Raises:
        ValueError: no chat template, or no token of its own for yes or for no.
    """

    def __init__(self, name: str, module: nn.Module, processor: Any) -> None:
        if not getattr(processor, "chat_template", None):
            raise ValueError(f"{name}: got a processor without a chat template, expected one")
        self._processor = processor
        self.yes, self.no = (spellings(name, processor.tokenizer, word) for word in ("yes", "no"))
        super().__init__(name, module, _convention(self.yes, self.no))

    def probability(self, image: Image.Image, text: str) -> float:
        yes, no = self.answers(image, text)
        if yes + no < LEAST:
            warnings.warn(
                f"{self.name}: answers yes or no with {100 * (yes + no):.0f} % only",
                AnswerNotYesOrNo,
                stacklevel=2,
            )
        return yes

    def answers(self, image: Image.Image, text: str) -> tuple[float, float]:
        """The probabilities of yes and of no as the first token of the answer.

        Raises:
            ValueError: a text that holds one of the tokenizer's special tokens, which would be read
                as more than a text.
        """
        check_plain(self.name, self._processor.tokenizer, text)
        asked = {"type": "text", "text": TEMPLATE.format(text=text)}
        question = {"role": "user", "content": [{"type": "image", "image": image}, asked]}
        inputs: Any = self._processor.apply_chat_template(
            [question], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        logits: Tensor = self.module(**inputs.to(self.device, self.dtype)).logits  # (1, T, V)
        chances = logits[0, -1].double().softmax(dim=-1)  # (V,)
        yes, no = (float(chances[[*ids.values()]].sum()) for ids in (self.yes, self.no))
        return yes, no


def spellings(name: str, tokenizer: Any, word: str) -> dict[str, int]:
    """The tokens that read `word` but for case and space around it, as text -> id, sorted by id.

    Raises:
        ValueError: there is none.
    """
    vocabulary = cast("Mapping[str, int]", tokenizer.get_vocab())
    near = sorted((i, t) for t, i in vocabulary.items() if word in t.lower() and len(t) < 16)
    found: dict[str, int] = {}
    for index, token in near:
        if str(tokenizer.decode([index])).strip().lower() == word:
            found[token] = index
    if not found:
        raise ValueError(f"{name}: got a tokenizer without a token for {word!r}, expected one")
    return found


def check_plain(name: str, tokenizer: Any, text: str) -> None:
    """Refuse a text with one of the tokenizer's special tokens in it.

    Raises:
        ValueError: names the token.
    """
    added = cast("Sequence[str]", tokenizer.all_special_tokens)
    for token in sorted({*map(str, added), *map(str, tokenizer.get_added_vocab())}, key=len):
        if token.strip() and token in text:
            raise ValueError(f"{name}: got {token!r} in a text, which it reads as more than text")


def _convention(yes: Mapping[str, int], no: Mapping[str, int]) -> str:
    counted, other = (json.dumps([*ids], ensure_ascii=False) for ids in (yes, no))
    return f"vqascore: P(yes) to {json.dumps(TEMPLATE)}, yes is {counted}, no is {other}"


def load_vqa(name: str, source: str, dtype: torch.dtype) -> VqaModel:
    """A folder or a Hub repository with an image-text-to-text model; safetensors, no remote code.

    Raises:
        ValueError: it cannot be loaded, or see `VqaModel`.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = model_parts(name, source)
    module = load_module(name, folder, AutoModelForImageTextToText, dtype)
    processor: Any = AutoProcessor.from_pretrained(folder, **NO_CODE)
    model = VqaModel(name, module, processor)
    model.settings_hash = hash_settings(folder)
    return model
