"""A CLIP made of two encoders and two projection heads: train it, save it, load it as a scorer.

Text encoder and image encoder are any of transformers; each is followed by a head
(`clipguide.clip.heads`) into a space of `embed_dim` dimensions. With DistilBERT (CLS of the last
layer) and ResNet50 it is the model of the tutorial that this design comes from
(https://github.com/moein-shariatnia/OpenAI-CLIP).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clipguide.clip.backbones import (
    ImageBackbone,
    TextBackbone,
    check_choice,
    load_image,
    load_text,
    rebuild,
)
from clipguide.clip.dual_encoder_files import (
    WEIGHTS,
    fetched,
    push_encoder,
    read_settings,
    read_tokenizer,
    save_encoder,
)
from clipguide.clip.encoder_settings import EncoderSettings
from clipguide.clip.heads import HEADS
from clipguide.clip.model_size import check_size
from clipguide.clip.preprocess import Preprocess
from clipguide.clip.probe import shape_of
from clipguide.clip.refusals import refusal
from clipguide.clip.settings_hash import hash_settings
from clipguide.clip.tokenizers import (
    PromptTokens,
    check_context,
    check_padding_side,
    check_tokenizer,
)
from clipguide.clip.tokens import truncate
from clipguide.clip.trainable import FIRST_BIAS, MAX_LOGIT_SCALE, TrainableClip


@dataclass(frozen=True)
class DualEncoderConfig(EncoderSettings):
    """What a dual encoder is, beside the configurations of its two backbones.

    Attributes:
        preprocess: from images in [0, 1] to the image encoder's pixels.
        loss: what it is trained with, one of `clipguide.training.objectives.LOSSES`.
        logit_bias: where the learned bias of the sigmoid loss begins.
    """

    preprocess: Preprocess
    loss: str = "infonce"
    logit_bias: float = FIRST_BIAS

    def __post_init__(self) -> None:
        check_choice("head", self.head, HEADS)
        if self.embed_dim < 1 or self.context_length < 3:
            got = f"embed_dim {self.embed_dim} and context_length {self.context_length}"
            raise ValueError(f"got {got}, expected at least 1 and 3")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"got dropout {self.dropout}, expected a value in [0, 1)")
        if not 0 < self.logit_scale <= MAX_LOGIT_SCALE:
            raise ValueError(f"got logit_scale {self.logit_scale}, expected (0, 100]")


class DualEncoder(TrainableClip):
    """Two backbones, two heads, a learned scale and bias; a `ClipModel`.

    Args:
        text, image: the backbones.
        tokenizer: a transformers tokenizer for the text encoder.
        config: see `DualEncoderConfig`.
        name: what it was loaded by.

    Raises:
        ValueError: a tokenizer, context or preprocessing that the backbones cannot take.

    Example:
        >>> model = DualEncoder.from_backbones("distilbert-base-uncased", "microsoft/resnet-50")
        >>> model.encode_text(["a dog"]).shape
        torch.Size([1, 256])
    """

    def __init__(
        self, text: nn.Module, image: nn.Module, tokenizer: Any, config: DualEncoderConfig,
        name: str = "dual encoder",
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.name = name
        self.tokenizer = tokenizer
        self.text = TextBackbone(text, config.text_pooling)
        self.image = ImageBackbone(image, config.image_pooling)
        shape_of(name, config.preprocess)
        check_tokenizer(name, tokenizer, text)
        check_padding_side(name, tokenizer)
        check_context(name, config.context_length, text)
        self._prompt_tokens = PromptTokens(name, tokenizer)
        widths = self._widths()
        head = HEADS[config.head]
        self.text_head = head(widths[0], config.embed_dim, config.dropout)
        self.image_head = head(widths[1], config.embed_dim, config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale)))
        self.bias = nn.Parameter(torch.tensor(float(config.logit_bias)))

    @classmethod
    def from_backbones(
        cls, text: str, image: str, preprocess: Preprocess | None = None, image_size: int = 0,
        **settings: Any,
    ) -> DualEncoder:  # fmt: skip
        """New heads on pretrained backbones, each a hub name or a folder.

        Args:
            text, image: where the backbones are.
            preprocess: instead of the image encoder's own.
            image_size: pixels; the shorter side becomes as long and the middle square is what the
                encoder sees, which must be a size it takes. 0 leaves the preprocessing as it is.
            settings: fields of `DualEncoderConfig`.

        Raises:
            ValueError: a backbone that cannot be loaded, or a setting out of range.
        """
        text_model, tokenizer = load_text(text)
        image_model, own = load_image(image)
        chosen = preprocess or own
        if image_size < 0:
            raise ValueError(f"got image_size {image_size}, expected 0 or more")
        if image_size:
            square = (image_size, image_size)
            chosen = replace(chosen, size=square, crop=square, resize="shortest")
        config = DualEncoderConfig(preprocess=chosen, **settings)
        return cls(text_model, image_model, tokenizer, config, f"{text} + {image}")

    @classmethod
    def from_pretrained(cls, source: str | Path, dtype: torch.dtype = torch.float32) -> DualEncoder:
        """Load a folder written by `save_pretrained`, or a Hub repository with the same files.

        Raises:
            ValueError: files that are missing, damaged, or do not belong together.
        """
        return load_encoder(str(source), fetched(str(source)), dtype)

    def save_pretrained(
        self, folder: str | Path, results: Mapping[str, float] | None = None
    ) -> None:
        """Write weights, configuration, tokenizer and model card; `results` go into the card."""
        save_encoder(self, Path(folder), results)

    def push_to_hub(self, repository: str, *, private: bool = True) -> str:
        """Upload the same files; returns the address of the commit."""
        return push_encoder(self, repository, private=private)

    @torch.no_grad()
    def _widths(self) -> tuple[int, int]:
        """Features of the two backbones, by trying them on one token and on one black image."""
        was = self.text.training, self.image.training
        self.text.eval()
        self.image.eval()
        token = torch.zeros((1, 1), dtype=torch.long, device=self.device)
        height, width = self.config.preprocess.crop or self.config.preprocess.size
        pixels = torch.zeros((1, 3, height, width), device=self.device)
        widths = self.text(token, torch.ones_like(token)).shape[1], self.image(pixels).shape[1]
        self.text.train(was[0])
        self.image.train(was[1])
        return widths

    @property
    def preprocess(self) -> Preprocess:
        return self.config.preprocess

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts -> `input_ids` and `attention_mask`, (P, T) each, padded to the longest.

        A prompt beyond the context is cut with a warning (`PromptTruncated`).
        """
        rows = [
            truncate(self._prompt_tokens(prompt), self.context_length, prompt) for prompt in prompts
        ]
        batch: Mapping[str, Tensor] = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        return {key: batch[key].to(self.device) for key in ("input_ids", "attention_mask")}


def load_encoder(name: str, folder: str, dtype: torch.dtype = torch.float32) -> DualEncoder:
    """Read what `save_encoder` wrote; nothing else is needed, nothing is fetched.

    Raises:
        ValueError: files that are missing, damaged, or do not belong together.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            files = [Path(folder) / WEIGHTS]
            check_size(name, lambda: _modules(read_settings(Path(folder))), files)
            model = _built(name, Path(folder))
        model.load_state_dict(load_file(Path(folder) / WEIGHTS))
        model.settings_hash = hash_settings(folder)
    except Exception as error:  # OSError, KeyError, SafetensorError, shapes that do not fit ...
        raise refusal(name, error) from error
    return model.to(dtype).eval()


def new_encoder(name: str, folder: str) -> DualEncoder:
    """The architecture that `save_encoder` wrote, its weights drawn from torch's generator.

    Raises:
        ValueError: files that are missing or damaged.
    """
    try:
        return _built(name, Path(folder)).eval()
    except Exception as error:  # see load_encoder
        raise refusal(name, error) from error


def _built(name: str, place: Path) -> DualEncoder:
    settings = read_settings(place)
    text, image = rebuild(settings["text"]), rebuild(settings["image"])
    return DualEncoder(text, image, read_tokenizer(place), _config(settings["encoder"]), name)


def _modules(settings: Mapping[str, Any]) -> nn.Module:
    """What of an encoder takes memory: its backbones and, as wide as they can be, its heads."""
    text, image = rebuild(settings["text"]), rebuild(settings["image"])
    width: int = settings["encoder"]["embed_dim"]
    return nn.ModuleList([text, image, nn.Linear(width, width), nn.Linear(1, width)])


def _config(values: Mapping[str, Any]) -> DualEncoderConfig:
    preprocess: dict[str, Any] = {
        key: tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        for key, value in dict(values["preprocess"]).items()
    }
    settings: dict[str, Any] = {**values, "preprocess": Preprocess(**preprocess)}
    return DualEncoderConfig(**settings)
