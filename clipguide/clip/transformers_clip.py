"""Any transformers model with `get_image_features` and `get_text_features`: CLIP, SigLIP, ..."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from clipguide.clip.hub import NO_CODE, model_folder
from clipguide.clip.library_clip import LibraryClip, unit
from clipguide.clip.model_size import check_size
from clipguide.clip.preprocess import Preprocess, Size
from clipguide.clip.probe import shape_of
from clipguide.clip.refusals import refusal
from clipguide.clip.settings_hash import hash_settings
from clipguide.clip.tokenizers import (
    PromptTokens,
    check_padding_side,
    check_tokenizer,
    context_length_of,
    end_at_the_tokenizers,
)
from clipguide.clip.tokens import truncate

# Models whose text tower was trained on prompts padded to the full context (SigLIP,
# arXiv:2303.15343); the others are padded to the longest prompt of the batch.
FULL_PADDING = frozenset({"siglip", "siglip2"})

_NO_CROP = 384  # pixels from which transformers' ConvNextImageProcessor resizes to a square
_FILTERS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling -> our names


class _Towers(Protocol):
    config: Any
    get_image_features: Callable[..., object]
    get_text_features: Callable[..., object]


class TransformersClip(LibraryClip):
    """Adapter of a transformers dual encoder (see `ClipModel`).

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        tokenizer: a transformers tokenizer.
        preprocess: see `read_preprocess`.

    Raises:
        ValueError: a tokenizer or preprocessing that does not go with the towers, see
            `clipguide.clip.tokenizers` and `clipguide.clip.probe.shape_of`.
    """

    def __init__(
        self, name: str, module: nn.Module, tokenizer: Callable[..., Mapping[str, Any]],
        preprocess: Preprocess,
    ) -> None:  # fmt: skip
        super().__init__(name, module, preprocess)
        shape_of(name, preprocess)
        self._towers = cast(_Towers, module)
        self._tokenizer = tokenizer
        config = self._towers.config
        text: nn.Module = getattr(module, "text_model", module)
        check_tokenizer(name, tokenizer, text)
        end_at_the_tokenizers(name, tokenizer, text)
        text_config: object = getattr(config, "text_config", config)
        self.context_length = context_length_of(name, tokenizer, text, text_config)
        self._tokens = PromptTokens(name, tokenizer)
        self._padding = "max_length" if config.model_type in FULL_PADDING else "longest"
        if self._padding == "longest":
            check_padding_side(name, tokenizer)
        self.noise_aware: bool = getattr(config, "noise_aware", False) is True
        scale: Tensor | None = getattr(module, "logit_scale", None)
        self.logit_scale = 1.0 if scale is None else float(scale.detach().float().exp())
        self.embed_dim = self.measured()

    def encode_image(self, pixels: Tensor) -> Tensor:
        return _unit(self._towers.get_image_features(pixel_values=pixels.to(self.dtype)))

    def tokenize(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Prompts -> what the text tower takes, by name, each (P, T)."""
        tokens = [truncate(self._tokens(prompt), self.context_length, prompt) for prompt in prompts]
        batch: Mapping[str, Tensor] = cast(Any, self._tokenizer).pad(
            {"input_ids": tokens},
            padding=self._padding,
            max_length=self.context_length,
            return_tensors="pt",
        )
        inputs = {"input_ids": batch["input_ids"].to(self.device)}
        if self._padding == "longest":  # SigLIP reads its padding and takes no mask
            inputs["attention_mask"] = batch["attention_mask"].to(self.device)
        return inputs

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return _unit(self._towers.get_text_features(**self.tokenize(prompts)))


def _unit(features: object) -> Tensor:
    """transformers 5 returns an output object, 4 a tensor."""
    return unit(cast(Tensor, getattr(features, "pooler_output", features)))


def load_transformers(name: str, source: str, dtype: torch.dtype) -> TransformersClip:
    """Load a directory or a Hub repository; weights from safetensors only, no remote code.

    Raises:
        ValueError: not there (or not in the offline cache), no safetensors, no two towers, weights
            that do not fit the configuration, or a preprocessing that has no rule here.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

    folder = model_folder(name, source)
    try:
        config: Any = AutoConfig.from_pretrained(folder, **NO_CODE)
        check_size(
            name,
            lambda: cast(nn.Module, AutoModel.from_config(config, trust_remote_code=False)),
            sorted(folder.glob("*.safetensors")),
        )
        processor: Any = AutoImageProcessor.from_pretrained(folder, **NO_CODE)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **NO_CODE)
        loaded: Any = AutoModel.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **NO_CODE
        )
    except Exception as error:  # OSError, ValueError, KeyError, SafetensorError, JSON errors ...
        raise refusal(name, error) from error
    module, report = cast("tuple[nn.Module, Mapping[str, Any]]", loaded)
    if report["missing_keys"]:
        missing = ", ".join(sorted(map(str, report["missing_keys"]))[:3])
        raise ValueError(f"{name}: got weights without {missing} ..., expected all of the model's")
    if not (hasattr(module, "get_image_features") and hasattr(module, "get_text_features")):
        kind = type(module).__name__
        raise ValueError(f"{name}: got a {kind}, expected a model with an image and a text tower")
    preprocess = read_preprocess(processor.to_dict(), name)
    found = TransformersClip(name, module.to(dtype), tokenizer, preprocess)
    found.settings_hash = hash_settings(folder)
    return found


def read_preprocess(settings: Mapping[str, Any], name: str) -> Preprocess:
    """A transformers image processor's settings (its `to_dict()`) as a `Preprocess`.

    Raises:
        ValueError: a setting that has no rule here, or is not there (named).
    """
    if "max_num_patches" in settings:
        raise ValueError(
            f"{name}: got a NaFlex processor (max_num_patches), which cuts images into "
            "different numbers of patches, expected a model of one image size"
        )
    if not (settings.get("do_rescale", True) and settings.get("do_normalize", True)):
        raise ValueError(f"{name}: got a processor without rescale or normalize, expected both")
    if abs(float(settings.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        raise ValueError(f"{name}: got rescale_factor {settings['rescale_factor']}, expected 1/255")
    if settings.get("do_pad"):
        raise ValueError(f"{name}: got a processor that pads, expected resize and centre crop")
    size, resize, crop = _read_shape(settings, name)
    resample = int(settings.get("resample", 3))
    if resample not in _FILTERS:
        raise ValueError(f"{name}: got resample {resample}, expected one of {_FILTERS}")
    return Preprocess(
        size=size,
        crop=crop,
        mean=_statistics(settings, "image_mean", name),
        std=_statistics(settings, "image_std", name),
        resize=resize,
        interpolation=_FILTERS[resample],
        center="floor",
    )


def _statistics(settings: Mapping[str, Any], key: str, name: str) -> tuple[float, float, float]:
    given: object = settings.get(key)
    if not isinstance(given, list | tuple) or len(cast("Sequence[object]", given)) != 3:
        raise ValueError(f"{name}: got {key} {given}, expected three numbers")
    red, green, blue = (float(value) for value in cast("Sequence[float]", given))
    return red, green, blue


def _read_shape(settings: Mapping[str, Any], name: str) -> tuple[Size, str, Size | None]:
    size, resize = _read_size(settings, name)
    if settings.get("crop_pct") and resize == "shortest":  # ConvNeXt's processor crops by itself
        edge = size[0]
        if edge >= _NO_CROP:
            return size, "squash", size
        whole = int(edge / float(settings["crop_pct"]))
        return (whole, whole), "shortest", size
    crop = _edges(settings.get("crop_size"), name) if settings.get("do_center_crop") else None
    return size, resize, crop


def _read_size(settings: Mapping[str, Any], name: str) -> tuple[Size, str]:
    if not settings.get("do_resize", True):
        return (1, 1), "keep"
    size: object = settings.get("size")
    if isinstance(size, Mapping):
        given = {key: value for key, value in cast("Mapping[str, Any]", size).items() if value}
        if set(given) == {"shortest_edge"}:
            edge = int(given["shortest_edge"])
            return (edge, edge), "shortest"
    return _edges(size, name), "squash"


def _edges(size: object, name: str) -> Size:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping):
        given = {key: value for key, value in cast("Mapping[str, Any]", size).items() if value}
        if set(given) == {"height", "width"}:
            return int(given["height"]), int(given["width"])
    text = json.dumps(size, default=str)
    raise ValueError(f"{name}: got size {text}, expected shortest_edge, or height and width")
