"""Training of open_clip's architectures, from weights or from the architecture's name alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clipguide.clip.open_clip_folder import check_open_clip_folder
from clipguide.clip.open_clip_model import OpenClipModel, read_preprocess, resolve
from clipguide.clip.refusals import refusal
from clipguide.clip.trainable import (
    FIRST_BIAS,
    Tower,
    TrainableClip,
    WholeClip,
    card_of,
    save_files,
)
from clipguide.files import write_json, write_text

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


class _Text(Tower):
    pooling = "own"

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        del attention_mask  # open_clip pads to the context and reads its own marks
        return self.model(input_ids)


class _Image(Tower):
    pooling = "own"

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels)


class TrainableOpenClip(WholeClip[OpenClipModel]):
    """A `CustomTextCLIP` of open_clip as `TrainableClip`.

    A tower keeps its projection: it trains with the tower's last block, and a tower of which
    nothing trains is locked, projection included. The bias of the sigmoid loss is part of what is
    saved only where the architecture has one.

    Args:
        name: what it was loaded by.
        model: its parts are shared.
        tokenizer: the result of `open_clip.get_tokenizer`.
        architecture: open_clip's configuration of the model.
        preprocessing: open_clip's settings of it.
    """

    def __init__(
        self, name: str, model: nn.Module, tokenizer: Any, architecture: Mapping[str, Any],
        preprocessing: Mapping[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        whole = cast(Any, model)
        self.name = name
        self._whole = (model,)  # in a tuple: not a second set of parameters
        self._tokenizer = tokenizer
        self._settings = {"model_cfg": architecture, "preprocess_cfg": preprocessing}
        self._reader = OpenClipModel(name, model, tokenizer, read_preprocess(preprocessing))
        self.text, self.image = _Text(whole.text), _Image(whole.visual)
        self.text_head, self.image_head = nn.Identity(), nn.Identity()
        self.log_scale = whole.logit_scale
        own = whole.logit_bias
        self.bias = nn.Parameter(torch.tensor(FIRST_BIAS)) if own is None else own

    @property
    def vocabulary(self) -> int:
        return int(self._tokenizer.vocab_size)

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        tokens = self._reader.tokenize(prompts)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}

    def save_pretrained(
        self, folder: str | Path, results: Mapping[str, float] | None = None
    ) -> None:
        """Write a folder that open_clip itself reads as `local-dir:`."""

        def write(place: Path) -> None:
            state = self._whole[0].state_dict()
            weights = {key: value.detach().cpu().clone() for key, value in state.items()}
            save_file(weights, place / WEIGHTS, metadata={"format": "pt"})
            if hasattr(self._tokenizer, "save_pretrained"):
                self._tokenizer.save_pretrained(place)
            write_text(place / "README.md", card_of("open_clip model", self, results or {}))
            write_json(place / CONFIG, self._settings)

        save_files(Path(folder), CONFIG, write)


def load_trainable_open_clip(name: str, spec: str, scratch: bool) -> TrainableClip:
    """An open_clip model to train, float32.

    Args:
        name: what the user called it.
        spec: "ARCH/TAG" as `load_open_clip`; with `scratch`, "ARCH" is enough.
        scratch: new weights, drawn from torch's generator, in place of the tag's.

    Raises:
        ValueError: as `load_open_clip`; or a text tower of transformers, whose architecture would
            have to be fetched again to load what was saved.
    """
    if scratch:
        return _create(name, spec.partition("/")[0], None, quick_gelu=False)
    return _create(name, *resolve(name, spec))


def load_trainable_open_clip_folder(name: str, folder: str, scratch: bool) -> TrainableClip:
    """The same from a folder with `open_clip_config.json`."""
    check_open_clip_folder(name, Path(folder), weights=not scratch)
    return _create(name, f"local-dir:{folder}", None, quick_gelu=False, load=not scratch)


def _create(
    name: str, architecture: str, pretrained: str | None, quick_gelu: bool, load: bool = True
) -> TrainableClip:
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if config is None:
        known: list[str] = open_clip.list_models()
        raise ValueError(f"{name}: got architecture {architecture!r}, expected one of {known}")
    if "multimodal_cfg" in config or "hf_model_name" in config["text_cfg"]:
        raise ValueError(f"{name}: got {architecture}, expected towers of open_clip's own")
    try:
        created: Any = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained, pretrained_text=False, load_weights=load,
            force_quick_gelu=quick_gelu, force_custom_text=True,
        )  # fmt: skip
        tokenizer: Any = open_clip.get_tokenizer(architecture)
    except Exception as error:  # RuntimeError, OSError, SafetensorError, KeyError ...
        raise refusal(name, error) from error
    module: nn.Module = created[0]
    settings: dict[str, Any] = open_clip.get_model_preprocess_cfg(module)
    config |= {"custom_text": True, **({"quick_gelu": True} if quick_gelu else {})}
    plain = json.loads(json.dumps(config)), json.loads(json.dumps(settings))
    return TrainableOpenClip(name, module.float().eval(), tokenizer, *plain)
