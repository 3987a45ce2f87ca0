"""What an open_clip configuration may lead to, looked at before open_clip reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from clipguide.clip.hub import model_folder
from clipguide.clip.model_folder import PICKLES, check_folder, read_json

CONFIG = "open_clip_config.json"
PREFERRED = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
"""Weights that open_clip takes before any others; beside them pickles are never opened."""
_TOKENIZER_SETTINGS = frozenset({"clean", "strip_sep_token", "language", "reduction_mask"})


def check_open_clip_folder(name: str, folder: Path, *, weights: bool = True) -> None:
    """Refuse a folder from which open_clip would read more than JSON and one safetensors file.

    Args:
        name: what the user called it, for messages.
        folder: with `open_clip_config.json`.
        weights: whether its weights will be read.

    Raises:
        ValueError: as `check_folder` and `check_text_settings`; no safetensors, or others between
            which open_clip would choose by itself, a pickle perhaps.
    """
    check_folder(name, folder)
    model = _table(_table(read_json(name, folder / CONFIG)).get("model_cfg"))
    text = _table(model.get("text_cfg"))
    if not text:
        raise ValueError(f"{name}: got {CONFIG} without model_cfg and text_cfg, expected both")
    check_text_settings(name, text, CONFIG, own_tokenizer=True)
    if weights:
        _check_weights(name, folder)


def _check_weights(name: str, folder: Path) -> None:
    if any((folder / one).is_file() for one in PREFERRED):
        return
    safe = sorted(path.name for path in folder.glob("*.safetensors"))
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if not safe:
        raise ValueError(f"{name}: got no *.safetensors in {folder}, expected one (no pickles)")
    if pickled or len(safe) > 1:
        raise ValueError(
            f"{name}: got weights {[*safe, *pickled]}, expected {PREFERRED[0]} (no pickles)"
        )


def check_text_settings(
    name: str, text: Mapping[str, Any] | None, file: str, *, own_tokenizer: bool = False
) -> None:
    """Refuse a text tower whose settings would run code, ask whether to, or open other files.

    open_clip hands `tokenizer_kwargs` to transformers as they are (trust_remote_code among them),
    and asks transformers for the architecture by name, which asks whether to run code of it.

    Args:
        name: of the model, for messages.
        text: open_clip's `text_cfg`.
        file: where it stands, for messages.
        own_tokenizer: its tokenizer comes from the model's folder, whatever its name.

    Raises:
        ValueError: names the setting; or the architecture or tokenizer cannot be fetched, or has
            code of its own.
    """
    if text is None:
        return
    others = sorted(set(_table(text.get("tokenizer_kwargs"))) - _TOKENIZER_SETTINGS)
    if others:
        raise ValueError(
            f"{name}: got tokenizer_kwargs {others[0]!r} in {file}, "
            f"expected some of {sorted(_TOKENIZER_SETTINGS)}"
        )
    keys = ("hf_model_name",) if own_tokenizer else ("hf_model_name", "hf_tokenizer_name")
    for source in {str(text[key]) for key in keys if text.get(key)}:
        model_folder(f"{name}: {source}", source, weights=False)


def _table(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
