"""A CLIP of another language on disk: its text tower, its tokenizer, the name of its teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clipguide.clip.backbones import rebuild
from clipguide.clip.dual_encoder_files import TOKENIZER, read_tokenizer
from clipguide.clip.heads import HEADS
from clipguide.clip.language_clip import LanguageClip, LanguageSettings, LanguageTower
from clipguide.clip.model_folder import check_folder
from clipguide.clip.model_size import check_size
from clipguide.clip.refusals import refusal
from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import hash_settings
from clipguide.clip.teacher_mark import TeacherMark
from clipguide.clip.trainable import save_files, table_of
from clipguide.files import atomic_path, write_json, write_text

CONFIG = "language_clip.json"
"""The file that marks a folder as a saved CLIP of another language."""
WEIGHTS, CARD = "model.safetensors", "README.md"
VERSION = 1


def save_language_clip(
    tower: LanguageTower, teacher: TeacherMark, folder: Path, figures: Mapping[str, float]
) -> None:
    """Write everything `load_language_clip` needs; the image tower stays the teacher's.

    Args:
        tower: reads texts.
        teacher: whose space it leads into.
        folder: made when it is not there.
        figures: for the card, by name.
    """
    state = tower.state_dict()
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    settings: dict[str, Any] = {
        "version": VERSION, "teacher": asdict(teacher), "text": tower.shape(),
        "tower": asdict(tower.settings), "embed_dim": tower.head.projection.out_features,
    }  # fmt: skip

    def write(place: Path) -> None:
        with atomic_path(place / WEIGHTS) as path:
            save_file(weights, path, metadata={"format": "pt"})
        tower.tokenizer.save_pretrained(place / TOKENIZER)
        write_text(place / CARD, _card(tower, teacher, figures))
        write_json(place / CONFIG, settings)

    save_files(folder, CONFIG, write)


def load_language_clip(
    name: str, folder: str, dtype: torch.dtype, load_teacher: Callable[[str], Scorer]
) -> LanguageClip:
    """Read what `save_language_clip` wrote, and the teacher that it names.

    Args:
        name, folder: what the user called it, and where it is.
        dtype: of its own weights; the teacher's are float32.
        load_teacher: `load_scorer`.

    Raises:
        ValueError: files that are missing, damaged or do not belong together, or a teacher that
            cannot be loaded or is not the one it was trained with.
    """
    place = Path(folder)
    try:
        check_folder(name, place)
        settings: dict[str, Any] = json.loads((place / CONFIG).read_text(encoding="utf-8"))
        if settings.get("version") != VERSION:
            got = f"got version {settings.get('version')}"
            raise ValueError(f"{CONFIG}: {got}, expected {VERSION}")
        given = LanguageSettings(**settings["tower"])
        width = int(settings["embed_dim"])
        check_size(name, lambda: _parts(settings, given, width), [place / WEIGHTS])
        tower = LanguageTower(rebuild(settings["text"]), read_tokenizer(place), width, given, name)
        tower.load_state_dict(load_file(place / WEIGHTS))
        teacher = TeacherMark(**settings["teacher"]).load(place, load_teacher)
        if teacher.embed_dim != width:
            raise ValueError(f"got a tower into {width} dimensions, expected {teacher.embed_dim}")
    except Exception as error:  # OSError, KeyError, SafetensorError, shapes that do not fit ...
        raise refusal(name, error) from error
    return LanguageClip(name, tower.to(dtype), teacher, hash_settings(place)).eval()


def _parts(settings: Mapping[str, Any], given: LanguageSettings, width: int) -> nn.Module:
    """What takes memory: the encoder and, as wide as it can be, the head."""
    return nn.ModuleList([rebuild(settings["text"]), HEADS[given.head](width, width, 0.0)])


def _card(tower: LanguageTower, teacher: TeacherMark, figures: Mapping[str, float]) -> str:
    """The model card, Markdown with the header that the Hub reads."""
    given, kind = tower.settings, tower.shape()["model_type"]
    lines = [
        "---", "library_name: clipguide", "pipeline_tag: zero-shot-image-classification", "---", "",
        f"# A text tower ({kind}) in the space of {teacher.name}", "",
        f"Texts by {kind}, pooling `{given.pooling}`, head `{given.head}`, "
        f"{given.context_length} tokens; images by the teacher, {teacher.name} "
        f"(weights {teacher.weights[:12]}...). Trained from pairs of texts (Reimers & Gurevych "
        "2020, https://arxiv.org/abs/2004.09813).", "",
        "```python", "import clipguide", "", 'scorer = clipguide.load_scorer("FOLDER")',
        'scorer.score("foto.jpg", "ein Hund am Strand")', "```", "",
    ]  # fmt: skip
    return "\n".join([*lines, *table_of(figures)])
