"""Models of open_clip, through its public functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from clipguide.clip.library_clip import LibraryClip, unit
from clipguide.clip.model_size import check_size
from clipguide.clip.open_clip_folder import check_open_clip_folder, check_text_settings
from clipguide.clip.open_clip_tokens import OpenClipTokens
from clipguide.clip.preprocess import Preprocess, Size
from clipguide.clip.probe import shape_of
from clipguide.clip.refusals import refusal, refusing
from clipguide.clip.settings_hash import hash_settings, hash_values
from clipguide.clip.tokens import truncate

RANDOM = "random"
"""The tag that asks for an architecture with random weights (seed 0), for tests and trials."""


class OpenClipModel(LibraryClip):
    """Adapter of an open_clip model (see `ClipModel`).

    Args:
        name: what the user called it.
        module: the model, its weights loaded.
        tokenizer: the result of `open_clip.get_tokenizer`.
        preprocess: see `read_preprocess`.
    """

    def __init__(
        self, name: str, module: nn.Module, tokenizer: Callable[..., Tensor], preprocess: Preprocess
    ) -> None:
        super().__init__(name, module, preprocess)
        self._model = cast(Any, module)
        shape_of(name, preprocess)
        self._tokenizer = cast(Any, tokenizer)
        self.context_length = int(self._tokenizer.context_length)
        self._tokens = OpenClipTokens(name, tokenizer, module)
        self.noise_aware = False
        self.logit_scale = float(self._model.logit_scale.detach().float().exp())
        self.embed_dim = self.measured()

    def encode_image(self, pixels: Tensor) -> Tensor:
        return unit(self._model.encode_image(pixels.to(self.dtype)))

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts -> tokens (P, context), cut before the last one with a warning."""
        for prompt in prompts:
            truncate(self._tokens(prompt), self.context_length, prompt)  # for its warning
        tokens: Tensor = self._tokenizer(list(prompts))
        return tokens.to(self.device)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return unit(self._model.encode_text(self.tokenize(prompts)))


def load_open_clip(name: str, spec: str, dtype: torch.dtype) -> OpenClipModel:
    """Load "ARCH/TAG": TAG is one of open_clip's tags, a .safetensors file, or "random".

    Raises:
        ValueError: as `resolve`, or weights that do not fit the architecture.
    """
    architecture, pretrained, quick_gelu = resolve(name, spec)
    with torch.random.fork_rng(devices=[]):
        if pretrained is None:
            torch.manual_seed(0)
        return _create(name, architecture, pretrained, dtype, quick_gelu=quick_gelu)


def resolve(name: str, spec: str) -> tuple[str, str | None, bool]:
    """Architecture, weights (None: random) and whether they want QuickGELU; a tag is fetched.

    Raises:
        ValueError: unknown architecture or tag (the choices are listed), weights that are not
            safetensors, or that cannot be fetched.
    """
    import open_clip

    architecture, _, tag = spec.partition("/")
    known: list[str] = open_clip.list_models()
    if architecture not in known:
        raise ValueError(f"{name}: got architecture {architecture!r}, expected one of {known}")
    if tag == RANDOM:
        return architecture, None, False
    if Path(tag).is_file():
        return architecture, _safetensors(name, tag), False
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        choices = [*tags, RANDOM, "a .safetensors file"]
        raise ValueError(f"{name}: got weights {tag!r}, expected one of {choices}")
    config: Mapping[str, Any] = open_clip.get_pretrained_cfg(architecture, tag)
    _fetch(name, config)
    return architecture, tag, bool(config.get("quick_gelu", False))


def _fetch(name: str, config: Mapping[str, Any]) -> None:
    """Put a tag's safetensors into the cache, where open_clip prefers them to a pickle.

    Asked for as safetensors by name, so that a pickle is never fetched in their place.
    """
    import open_clip

    repository, _, file = str(config.get("hf_hub", "")).rpartition("/")
    if not repository:
        raise ValueError(f"{name}: got a tag with pickled weights only, expected safetensors")
    file = Path(file or "open_clip_model").with_suffix(".safetensors").name
    try:
        open_clip.download_pretrained({"hf_hub": f"{repository}/{file}"})
    except Exception as error:  # whatever the network and the hub client raise
        raise refusal(name, error) from error


def load_open_clip_folder(name: str, folder: str, dtype: torch.dtype) -> OpenClipModel:
    """Load a folder with `open_clip_config.json` and `open_clip_model.safetensors`.

    Raises:
        ValueError: see `check_open_clip_folder`, or weights that do not fit.
    """
    check_open_clip_folder(name, Path(folder))
    with refusing(name):
        check_size(name, lambda: _modules(folder), sorted(Path(folder).glob("*.safetensors")))
    model = _create(name, f"local-dir:{folder}", None, dtype)
    model.settings_hash = hash_settings(folder)
    return model


def _modules(folder: str) -> nn.Module:
    import open_clip

    return open_clip.create_model(
        f"local-dir:{folder}", load_weights=False, pretrained_text=False, device="meta"
    )


def _safetensors(name: str, file: str) -> str:
    if Path(file).suffix != ".safetensors":
        raise ValueError(f"{name}: got weights {file}, expected a .safetensors file (no pickles)")
    return file


def _create(
    name: str,
    architecture: str,
    pretrained: str | None,
    dtype: torch.dtype,
    *,
    quick_gelu: bool = False,
) -> OpenClipModel:
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(architecture)
    local = architecture.startswith("local-dir:")  # its tokenizer is in the folder
    check_text_settings(name, (config or {}).get("text_cfg"), architecture, own_tokenizer=local)
    try:
        created: Any = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained, pretrained_text=False, force_quick_gelu=quick_gelu
        )
        tokenizer: Any = open_clip.get_tokenizer(architecture)
    except Exception as error:  # RuntimeError, OSError, SafetensorError, KeyError ...
        raise refusal(name, error) from error
    module: nn.Module = created[0]
    preprocess = read_preprocess(open_clip.get_model_preprocess_cfg(module))
    found = OpenClipModel(name, module.to(dtype), tokenizer, preprocess)
    quick_gelu = quick_gelu or bool((config or {}).get("quick_gelu"))
    found.settings_hash = hash_values(**{**(config or {}), "quick_gelu": quick_gelu})
    return found


def read_preprocess(settings: Mapping[str, Any]) -> Preprocess:
    """open_clip's preprocess settings (`image_transform_v2`, evaluation) as a `Preprocess`."""
    size = _pair(settings["size"])
    fit = str(settings.get("resize_mode", "shortest"))
    resize = {"longest": "contain", "squash": "squash"}.get(fit, "shortest")
    interpolation = "bilinear" if settings.get("interpolation") == "bilinear" else "bicubic"
    if resize == "shortest" and size[0] != size[1]:
        resize, interpolation = "cover", "bicubic"  # open_clip resizes these with its default
    return Preprocess(
        size=size,
        crop=size,
        mean=_triple(settings["mean"]),
        std=_triple(settings["std"]),
        resize=resize,
        interpolation=interpolation,
        center="half_even",
        fill=int(settings.get("fill_color", 0)) if resize == "contain" else 0,
    )


def _pair(size: int | Sequence[int]) -> Size:
    if isinstance(size, int):
        return size, size
    return int(size[0]), int(size[-1])


def _triple(values: float | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(values, (int, float)):
        return float(values), float(values), float(values)
    red, green, blue = map(float, values)
    return red, green, blue
