"""A dual encoder on disk: one safetensors file, its whole configuration, its tokenizer, a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from clipguide.clip.backbones import config_of
from clipguide.clip.heads import HEADS
from clipguide.clip.hub import NO_CODE, SETTINGS, fetch, push
from clipguide.clip.model_folder import check_folder, read_json
from clipguide.clip.trainable import table_of
from clipguide.files import atomic_path, write_json, write_text

if TYPE_CHECKING:
    from clipguide.clip.dual_encoder import DualEncoder

CONFIG = "dual_encoder.json"
"""The file that marks a folder as a saved dual encoder."""
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer"
CARD = "README.md"
VERSION = 1


def save_encoder(
    model: DualEncoder, folder: Path, results: Mapping[str, float] | None = None
) -> None:
    """Write everything `load_encoder` needs; the configuration last, so a half-written folder is
    not taken for a model.

    Args:
        model: the encoder.
        folder: made when it is not there.
        results: figures for the card, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in _weights(model).items()}
    with atomic_path(folder / WEIGHTS) as path:
        save_file(weights, path, metadata={"format": "pt"})
    model.tokenizer.save_pretrained(folder / TOKENIZER)
    write_text(folder / CARD, card(model, results or {}))
    settings: dict[str, Any] = {
        "version": VERSION,
        "text": config_of(model.text.model),
        "image": config_of(model.image.model),
        "encoder": asdict(model.config),
    }
    write_json(folder / CONFIG, settings)


def _weights(model: DualEncoder) -> dict[str, torch.Tensor]:
    """The state, tensors that share memory written apart."""
    seen: set[int] = set()
    state: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        shared = value.data_ptr() in seen
        seen.add(value.data_ptr())
        state[name] = value.clone() if shared else value
    return state


def read_settings(folder: Path) -> dict[str, Any]:
    """What `CONFIG` says; ValueError for another version."""
    check_folder(str(folder), folder)
    settings: dict[str, Any] = read_json(str(folder), folder / CONFIG)
    if settings.get("version") != VERSION:
        raise ValueError(f"{CONFIG}: got version {settings.get('version')}, expected {VERSION}")
    return settings


def read_tokenizer(folder: Path) -> Any:
    """The text encoder's tokenizer; ValueError where the folder has none."""
    from transformers import AutoTokenizer

    if not (folder / TOKENIZER).is_dir():
        raise ValueError(f"got no folder {TOKENIZER}, expected the text encoder's tokenizer")
    check_folder(str(folder), folder / TOKENIZER)
    return AutoTokenizer.from_pretrained(folder / TOKENIZER, **NO_CODE)


def card(model: DualEncoder, results: Mapping[str, float]) -> str:
    """The model card, Markdown with the header that the Hub reads."""
    config = model.config
    kinds = [config_of(part.model)["model_type"] for part in (model.text, model.image)]
    lines = [
        "---",
        "library_name: clipguide",
        "pipeline_tag: zero-shot-image-classification",
        "---",
        "",
        f"# Dual encoder: {kinds[0]} and {kinds[1]}",
        "",
        f"Images and texts as unit vectors of {config.embed_dim} dimensions, compared by cosine.",
        "",
        f"- Text: {kinds[0]}, pooling `{config.text_pooling}`, {config.context_length} tokens.",
        f"- Image: {kinds[1]}, pooling `{config.image_pooling}`.",
        f"- Preprocessing: `{config.preprocess}`.",
        f"- Heads: {HEADS[config.head].layers}; dropout {config.dropout}.",
        f"- Loss: `{config.loss}`; learned scale on cosines {model.logit_scale:.2f}.",
        "",
        "```python",
        "import clipguide",
        'scorer = clipguide.load_scorer("FOLDER")',
        'scorer.score("photo.jpg", "a dog on a beach")',
        "```",
        "",
    ]
    return "\n".join([*lines, *table_of(results)])


def push_encoder(model: DualEncoder, repository: str, *, private: bool = True) -> str:
    """Upload to the Hub as the user who is logged in there; returns the address of the commit."""
    return push(repository, lambda folder: save_encoder(model, folder), private=private)


def fetched(source: str) -> str:
    """A folder of `save_encoder`: `source` where it is one, else a Hub repository, fetched."""
    if Path(source).expanduser().is_dir():
        return str(Path(source).expanduser())
    inner = [f"{TOKENIZER}/{pattern}" for pattern in SETTINGS]
    return str(fetch(source, source, [CONFIG, WEIGHTS, *inner]))
