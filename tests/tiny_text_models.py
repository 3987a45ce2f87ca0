"""Tiny random models of transformers with a tokenizer of words, saved, changed and refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_clip import tiny_clip_dir
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
)

from clipguide.clip.loading import load_scorer

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefgh", "dog", "cat", "fox"]
TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
}  # fmt: skip
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
BERT = {**TOWER, "vocab_size": len(WORDS), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}


def words_tokenizer(**settings: Any) -> PreTrainedTokenizerFast:
    """A token per known word, with the marks of RoBERTa; no limit unless one is given."""
    inner: Any = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    inner.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    marks = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>"}
    names = {f"{mark}_token": token for mark, token in marks.items()}
    every = {**names, "unk_token": "<unk>", **settings}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **every)


def altclip() -> Any:
    text = {**BERT, "max_position_embeddings": 20, "project_dim": 32}
    return transformers.AltCLIPModel(
        transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    )


def chinese_clip() -> Any:
    text = {**BERT, "pad_token_id": 1, "max_position_embeddings": 20}
    return transformers.ChineseCLIPModel(
        transformers.ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    )


def siglip() -> Any:
    text = {**BERT, "max_position_embeddings": 8, "projection_size": 32}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=VISION)
    )


MODELS: dict[str, Callable[[], Any]] = {
    "altclip": altclip, "chinese_clip": chinese_clip, "siglip": siglip,
}  # fmt: skip


def saved(folder: Path, kind: str, tokenizer: Any | None = None) -> Path:
    """A tiny random model of transformers with its tokenizer and processor."""
    if kind == "clip":
        return tiny_clip_dir(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODELS[kind]().eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    (tokenizer or words_tokenizer()).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def change(file: Path, **settings: object) -> None:
    """Set keys of a JSON file; `...` takes one away."""
    value = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({key: one for key, one in value.items() if one is not ...}))


def refused(source: object, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_scorer(str(source))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source}: ")
