"""The settings that a dual encoder and the file of its training run share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What leads from two backbones into the common space.

    Attributes:
        embed_dim: D, the dimension of the common space.
        head: one of `clipguide.clip.heads.HEADS`.
        dropout: of the heads while they train.
        text_pooling, image_pooling: see `clipguide.clip.backbones`.
        context_length: tokens of a text that are read, special tokens included.
        logit_scale: where the learned scale on cosines begins, the inverse of the temperature.
    """

    embed_dim: int = 256
    head: str = "projection"
    dropout: float = 0.1
    text_pooling: str = "cls"
    image_pooling: str = "mean"
    context_length: int = 64
    logit_scale: float = 1 / 0.07
