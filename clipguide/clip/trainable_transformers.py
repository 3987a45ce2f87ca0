"""Training of a transformers `CLIPModel`, from its weights or from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.clip.hub import NO_CODE, model_folder
from clipguide.clip.refusals import refusal
from clipguide.clip.trainable import (
    FIRST_BIAS,
    Tower,
    TrainableClip,
    WholeClip,
    card_of,
    save_files,
)
from clipguide.clip.transformers_clip import TransformersClip, read_preprocess
from clipguide.files import write_text

CONFIG = "config.json"


class _Text(Tower):
    pooling = "end"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Any = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return output.pooler_output


class _Image(Tower):
    pooling = "class"

    def forward(self, pixels: Tensor) -> Tensor:
        output: Any = self.model(pixel_values=pixels)
        return output.pooler_output


class TrainableTransformersClip(WholeClip[TransformersClip]):
    """A `CLIPModel` as `TrainableClip`: its towers, its projections as heads, its learned scale.

    The bias of the sigmoid loss is learned beside it and is not part of what is saved.

    Args:
        name: what it was loaded by.
        model: the `CLIPModel`; its parts are shared.
        tokenizer, processor: of it.
    """

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, processor: Any) -> None:
        super().__init__()
        whole = cast(Any, model)
        self.name = name
        self._saved = (whole, tokenizer, processor)  # in a tuple: not a second set of parameters
        self._reader = TransformersClip(
            name, model, tokenizer, read_preprocess(processor.to_dict(), name)
        )
        self.text, self.image = _Text(whole.text_model), _Image(whole.vision_model)
        self.text_head, self.image_head = whole.text_projection, whole.visual_projection
        self.log_scale = whole.logit_scale
        self.bias = nn.Parameter(torch.tensor(FIRST_BIAS))

    @property
    def vocabulary(self) -> int:
        return len(self._saved[1])

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        return self._reader.tokenize(prompts)

    def save_pretrained(
        self, folder: str | Path, results: Mapping[str, float] | None = None
    ) -> None:
        """Write the model, its tokenizer and its image processor as transformers does."""

        def write(place: Path) -> None:
            for part in self._saved:
                part.save_pretrained(place)
            write_text(place / "README.md", card_of("CLIPModel", self, results or {}))

        save_files(Path(folder), CONFIG, write)


def load_trainable_transformers(name: str, source: str, scratch: bool) -> TrainableClip:
    """A `CLIPModel` to train, float32.

    Args:
        name: what the user called it.
        source: a folder or a Hub repository.
        scratch: take its configuration, tokenizer and image processor, and new weights, drawn from
            torch's generator.

    Raises:
        ValueError: it cannot be loaded, or is not a `CLIPModel`.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPConfig, CLIPModel

    folder = model_folder(name, source, weights=not scratch)
    try:
        config: Any = AutoConfig.from_pretrained(folder, **NO_CODE)
        if not isinstance(config, CLIPConfig):
            kind = type(config).__name__
            raise ValueError(f"got a {kind}, expected a CLIPModel (or model.text and model.image)")
        processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
        if scratch:
            model: nn.Module = CLIPModel(config).float()
        else:
            model = CLIPModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
            )
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError, JSON errors ...
        raise refusal(name, error) from error
    return TrainableTransformersClip(name, model.eval(), tokenizer, processor)
