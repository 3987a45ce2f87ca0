"""Text and image backbones from transformers: loading, pooling, rebuilding without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguide.clip.hub import NO_CODE, model_folder
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.refusals import refusal
from clipguide.clip.trainable import Tower
from clipguide.clip.transformers_clip import read_preprocess

_NAMES_OF_CLASSES = ("id2label", "label2id")  # of a classifier that is not part of the backbone
LEVELS = 5
"""States that pooling `levels` reads, the last one among them."""


def _masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _last_four(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    return _masked_mean(torch.stack([*states[-4:]]).mean(dim=0), mask)


def _joined(levels: Sequence[Tensor]) -> Tensor:
    """Features of each level (B, D_i), each of unit length, end to end."""
    return torch.cat([functional.normalize(level, dim=-1) for level in levels], dim=-1)


TEXT_POOLINGS: dict[str, Callable[[Sequence[Tensor], Tensor], Tensor]] = {
    "cls": lambda states, mask: states[-1][:, 0],
    "mean": lambda states, mask: _masked_mean(states[-1], mask),
    "last4": _last_four,
    "levels": lambda states, mask: _joined([_masked_mean(s, mask) for s in states[-LEVELS:]]),
}
"""Name -> (hidden states of every layer (B, T, D), mask (B, T)) -> (B, F). `cls`: the first token
of the last layer; `mean`: its tokens, padding left out; `last4`: the same of the mean of the last
four layers; `levels`: `mean` of each of the last `LEVELS` layers, of unit length, end to end."""


def _places_mean(state: Tensor) -> Tensor:
    return state.mean(dim=(2, 3)) if state.ndim == 4 else state.mean(dim=1)


def _image_cls(state: Tensor) -> Tensor:
    if state.ndim != 3:
        raise ValueError(f"got image states {tuple(state.shape)}, expected tokens for pooling cls")
    return state[:, 0]


IMAGE_POOLINGS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {
    "mean": lambda states: _places_mean(states[-1]),
    "cls": lambda states: _image_cls(states[-1]),
    "levels": lambda states: _joined([_places_mean(state) for state in states[-LEVELS:]]),
}
"""Name -> states, the last of them at the end, (B, D, h, w) each of a CNN or (B, T, D) of a ViT
-> (B, F). `mean`: over all places (what ResNet and MobileNet call their pooler); `cls`: the first
token; `levels`: `mean` of each of the last `LEVELS` states, of unit length, end to end. The other
poolings are given the last state alone."""


class TextBackbone(Tower):
    """A transformers text encoder, pooled to one vector per text.

    Args:
        model: takes `input_ids` and `attention_mask`, returns hidden states.
        pooling: one of `TEXT_POOLINGS`.
    """

    def __init__(self, model: nn.Module, pooling: str = "cls") -> None:
        super().__init__(model)
        check_choice("text pooling", pooling, TEXT_POOLINGS)
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens (B, T) and their mask -> (B, F)."""
        output: Any = self.model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        states = cast("tuple[Tensor, ...]", output.hidden_states)
        return TEXT_POOLINGS[self.pooling](states, attention_mask)


class ImageBackbone(Tower):
    """A transformers vision encoder, pooled to one vector per image.

    Args:
        model: takes `pixel_values`, returns a last hidden state.
        pooling: one of `IMAGE_POOLINGS`.
    """

    def __init__(self, model: nn.Module, pooling: str = "mean") -> None:
        super().__init__(model)
        check_choice("image pooling", pooling, IMAGE_POOLINGS)
        self.pooling = pooling

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, h, w) -> (B, F)."""
        if self.pooling != "levels":
            output: Any = self.model(pixel_values=pixels)
            return IMAGE_POOLINGS[self.pooling]([output.last_hidden_state])
        return IMAGE_POOLINGS[self.pooling](image_states(self.model, pixels))


def image_states(model: nn.Module, pixels: Tensor) -> list[Tensor]:
    """What a transformers vision encoder makes of normalised pixels (B, 3, h, w), layer by layer,
    the last hidden state at the end: (B, D, h', w') each of a CNN, (B, T, D) of a ViT."""
    output: Any = model(pixel_values=pixels, output_hidden_states=True)
    last: Tensor = output.last_hidden_state
    states = [*cast("tuple[Tensor, ...]", output.hidden_states)]
    if states[-1].shape == last.shape:  # the last state itself, or before its normalisation
        states.pop()
    return [*states, last]


def check_choice(what: str, got: str, choices: Mapping[str, object]) -> None:
    """ValueError that lists the choices."""
    if got not in choices:
        raise ValueError(f"got {what} {got!r}, expected one of {[*choices]}")


def config_of(model: nn.Module) -> dict[str, Any]:
    """The configuration that `rebuild` makes the same architecture from; JSON types only."""
    config: Any = model.config
    values: dict[str, Any] = config.to_diff_dict()
    return {key: value for key, value in values.items() if key not in _NAMES_OF_CLASSES}


def rebuild(config: Mapping[str, Any]) -> nn.Module:
    """The architecture of a configuration; its weights are drawn apart from torch's own generator.

    Raises:
        ValueError: an architecture that this version of transformers does not have.
    """
    from transformers import AutoConfig, AutoModel

    try:
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = AutoModel.from_config(
                AutoConfig.for_model(**config), trust_remote_code=False
            )
    except (ValueError, KeyError, TypeError) as error:
        raise refusal(str(config.get("model_type")), error) from error
    return model.float()


def load_text(source: str) -> tuple[nn.Module, Any]:
    """A text encoder and its tokenizer from a hub name or a folder; safetensors only, float32.

    Raises:
        ValueError: it cannot be loaded, or it is not a text encoder alone.
    """
    from transformers import AutoTokenizer

    folder = model_folder(source, source)
    model = _load(source, folder)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
    except Exception as error:  # OSError, ValueError, KeyError, JSON errors ...
        raise refusal(source, error) from error
    return model, tokenizer


def load_image(source: str) -> tuple[nn.Module, Preprocess]:
    """An image encoder and its preprocessing from a hub name or a folder; as `load_text`."""
    from transformers import AutoImageProcessor

    folder = model_folder(source, source)
    model = _load(source, folder)
    try:
        processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
    except Exception as error:  # see load_text
        raise refusal(source, error) from error
    return model, read_preprocess(processor.to_dict(), source)


def _load(source: str, folder: Path) -> nn.Module:
    from transformers import AutoModel

    try:
        model: nn.Module = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **NO_CODE
        )
    except Exception as error:  # see load_text
        raise refusal(source, error) from error
    if hasattr(model, "text_model") and hasattr(model, "vision_model"):
        raise ValueError(f"{source}: got a model of two towers, expected one text or image encoder")
    return model
