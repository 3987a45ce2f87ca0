"""What the flow-matching families share: block sizes, call arguments, a row."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from families.parts import PROMPT, WIDTH, Family
from PIL import Image

BLOCKS: dict[str, Any] = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
TOWER: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
S16, S32 = ({"height": side, "width": side} for side in (16, 32))
SHORT = {"max_sequence_length": 16}


def embedded(negative: bool = True, **more: Any) -> Callable[[int], dict[str, Any]]:
    """Call arguments with random prompt embeddings, for text encoders that are no small model."""

    def call(n: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(4)
        one, other = torch.randn(2, 1, 8, WIDTH, generator=generator)
        embeds = {"prompt_embeds": one} | ({"negative_prompt_embeds": other} if negative else {})
        return {name: value.repeat(n, 1, 1) for name, value in embeds.items()} | more

    return call


def from_picture(n: int) -> dict[str, Any]:
    """Call arguments of image to image."""
    picture = Image.radial_gradient("L").resize((16, 16)).convert("RGB")
    return {"prompt": [PROMPT] * n, "image": [picture] * n, "strength": 0.8, **S16}


def family(build: Callable[[], Any], call: Any, cls: Any) -> Family:
    """A row of one pipeline class, built once."""
    return Family(cls.__name__, cache(build), call)
