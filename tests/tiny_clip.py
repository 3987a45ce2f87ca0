"""A tiny random CLIP of the real classes, saved like any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

# before transformers 5.4 the processors that use Pillow had the plain names
CLIPImageProcessorPil: Any = getattr(transformers, "CLIPImageProcessorPil", CLIPImageProcessor)
SiglipImageProcessorPil: Any = getattr(
    transformers, "SiglipImageProcessorPil", transformers.SiglipImageProcessor
)

START, END = "<|startoftext|>", "<|endoftext|>"


def tiny_tokenizer(context_length: int = 77) -> CLIPTokenizer:
    """One token per byte, CLIP's own rules otherwise."""
    letters = [*_byte_letters(), *(letter + "</w>" for letter in _byte_letters())]
    vocabulary = {token: index for index, token in enumerate([*letters, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=context_length)


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-ins of the 256 bytes, in CLIP's order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + index) for index in range(len(hidden))]


def tiny_clip_dir(
    path: str | Path, *, image_size: int = 32, seed: int = 0, context_length: int = 77
) -> Path:
    """Save a CLIPModel (about 60,000 random weights), its processor and tokenizer; returns `path`.

    The towers are scaled up so that random images and prompts have clearly different vectors.
    """
    path = Path(path)
    tokenizer = tiny_tokenizer(context_length)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text = {
        **tower,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": context_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "num_hidden_layers": 2, "image_size": image_size, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(path)
    return path


def clip_parts(folder: Path) -> dict[str, Any]:
    """The components by which a custom pipeline takes the CLIP of `tiny_clip_dir`."""
    processor = CLIPProcessor(
        image_processor=CLIPImageProcessor.from_pretrained(folder),
        tokenizer=CLIPTokenizer.from_pretrained(folder),
    )
    return {"clip_model": CLIPModel.from_pretrained(folder), "clip_processor": processor}
