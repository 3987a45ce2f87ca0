"""Tiny random cross-encoders of the real classes, saved like any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

CHAT = (
    "{% for m in messages %}ASKED : {% for part in m['content'] %}{% if part['type'] == 'image' %}"
    "<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ANSWER :"
)
WORDS = (
    "<unk>", "<pad>", "<image>", "[CLS]", "[SEP]", "yes", "no", "Yes", "No", "YES", "nothing",
    "ASKED", "ANSWER", ":", "Does", "this", "figure", "show", "'", "?", "Please", "answer", "or",
    ".", "a", "red", "star", "blue", "ring",
)  # fmt: skip
SIDE = 32


def words_tokenizer(words: tuple[str, ...] = WORDS, **special: str) -> PreTrainedTokenizerFast:
    """A token per word, punctuation apart; others are <unk>."""
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if "cls_token" in special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", **special
    )


def tiny_llava(path: Path, words: tuple[str, ...] = WORDS, chat: str | None = CHAT) -> Path:
    """A Llava of two layers with its processor; returns `path`."""
    tokenizer: Any = words_tokenizer(words, extra_special_tokens={"image_token": "<image>"})
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=SIDE, patch_size=8,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(words), pad_token_id=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=2, vision_feature_layer=-1
    )
    random_weights(LlavaForConditionalGeneration(config)).save_pretrained(path)
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)
    LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=8, chat_template=chat,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(path)  # fmt: skip
    return path


def tiny_blip(path: Path) -> Path:
    """A BLIP of two layers with a matching head, of 24 positions; returns `path`."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    tower |= {"num_hidden_layers": 2}
    text = {**tower, "vocab_size": len(WORDS), "max_position_embeddings": 24}
    text |= {"encoder_hidden_size": 16, "pad_token_id": 1, "bos_token_id": 3, "sep_token_id": 4}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)
    random_weights(BlipForImageTextRetrieval(config)).save_pretrained(path)
    words_tokenizer(cls_token="[CLS]", sep_token="[SEP]").save_pretrained(path)
    BlipImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


def random_weights(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.4
    return model.eval()


def noise_pictures(folder: Path) -> list[Path]:
    """Two of them, a.png and b.png."""
    files = [folder / f"{name}.png" for name in "ab"]
    for seed, file in enumerate(files):
        pixels = np.random.default_rng(seed).integers(256, size=(40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return files
