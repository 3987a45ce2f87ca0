"""A latent CLIP on disk: weights of its tower, all settings, a card; the text is the teacher's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from clipguide.clip.hub import push
from clipguide.clip.latent_card import card
from clipguide.clip.latent_clip import LatentClip, LatentClipConfig, LatentTower
from clipguide.clip.latent_teacher import TeacherTower, TeacherTowerShape
from clipguide.clip.latent_vit import LatentVit, LatentVitShape
from clipguide.clip.model_folder import check_folder
from clipguide.clip.model_size import check_size
from clipguide.clip.noise_level import NoiseScale
from clipguide.clip.refusals import refusal
from clipguide.clip.scorer import Scorer
from clipguide.clip.teacher_mark import TeacherMark
from clipguide.clip.trainable import save_files
from clipguide.files import atomic_path, write_json, write_text

CONFIG = "latent_clip.json"
"""The file that marks a folder as a saved latent CLIP."""
WEIGHTS = "model.safetensors"
CARD = "README.md"
VERSION = 1

Build = Callable[[Mapping[str, Any], Scorer], LatentTower]
"""(settings without the kind, teacher) -> a tower, whose weights are then loaded."""


def _vit(settings: Mapping[str, Any], teacher: Scorer) -> LatentTower:
    return LatentVit(LatentVitShape(**{**settings, "embed_dim": teacher.embed_dim}))


def _from_teacher(settings: Mapping[str, Any], teacher: Scorer) -> LatentTower:
    return TeacherTower.from_teacher(TeacherTowerShape(**settings), teacher.model)


TOWERS: dict[str, Build] = {LatentVit.kind: _vit, TeacherTower.kind: _from_teacher}
"""Kind of a tower -> how it is built from its settings."""


def save_latent_clip(model: LatentClip, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write everything `load_latent_clip` needs, in one go; the text tower stays the teacher's.

    Args:
        model: the latent CLIP.
        folder: made when it is not there.
        dtype: of the weights in the file; their own where it is not given.
    """
    weights = {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous().clone()
        for name, value in _own(model).items()
    }
    settings: dict[str, Any] = {
        "version": VERSION,
        "tower": {"kind": model.tower.kind, **model.tower.settings()},
        **asdict(model.config),
    }

    def write(place: Path) -> None:
        with atomic_path(place / WEIGHTS) as path:
            save_file(weights, path, metadata={"format": "pt"})
        write_text(place / CARD, card(model))
        write_json(place / CONFIG, settings)

    save_files(folder, CONFIG, write)


def _own(model: LatentClip) -> dict[str, torch.Tensor]:
    """The state without the teacher's."""
    state = model.state_dict()
    return {name: value for name, value in state.items() if not name.startswith("teacher.")}


def load_latent_clip(
    name: str, folder: str, dtype: torch.dtype, load_teacher: Callable[[str], Scorer]
) -> LatentClip:
    """Read what `save_latent_clip` wrote, and the teacher that it names.

    Args:
        name, folder: what the user called it, and where it is.
        dtype: of the weights.
        load_teacher: `load_scorer`.

    Raises:
        ValueError: files that are missing, damaged or do not belong together, weights that are not
            finite, or a teacher that cannot be loaded or is not the one it was trained with.
    """
    try:
        check_folder(name, Path(folder))
        settings = _read(Path(folder, CONFIG))
        tower = dict(settings.pop("tower"))
        kind = str(tower.pop("kind"))
        if kind not in TOWERS:
            raise ValueError(f"got a tower {kind!r}, expected one of {[*TOWERS]}")
        config = LatentClipConfig(**settings)
        own = (config.teacher, config.teacher_hash, config.teacher_settings)
        teacher = TeacherMark(*own).load(Path(folder), load_teacher)
        check_size(name, lambda: TOWERS[kind](tower, teacher), [Path(folder, WEIGHTS)])
        with torch.random.fork_rng(devices=[]):
            model = LatentClip(name, TOWERS[kind](tower, teacher), NoiseScale(), teacher, config)
        _load(model, load_file(Path(folder, WEIGHTS)))
    except Exception as error:  # OSError, KeyError, SafetensorError, shapes that do not fit ...
        raise refusal(name, error) from error
    return model.to(dtype).eval()


def read_config(folder: Path) -> LatentClipConfig | None:
    """What a folder says of its latent CLIP; None where it holds none that can be read."""
    try:
        settings = _read(folder / CONFIG)
        return LatentClipConfig(**{k: v for k, v in settings.items() if k != "tower"})
    except (OSError, ValueError, TypeError):
        return None


def _read(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    version = settings.pop("version", None)
    if version != VERSION:
        raise ValueError(f"{CONFIG}: got version {version}, expected {VERSION}")
    return settings


def _load(model: LatentClip, weights: Mapping[str, torch.Tensor]) -> None:
    for key, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"got a non-finite weight {key}, expected finite ones")
    own = {*_own(model)}
    if {*weights} != own:
        odd = sorted({*weights} ^ own)[:3]
        raise ValueError(f"got weights that do not fit the tower at {odd}, expected all of them")
    model.load_state_dict(dict(weights), strict=False)  # without the teacher's


def push_check(config: LatentClipConfig) -> None:
    """ValueError for a latent CLIP that nobody else could load."""
    if Path(config.teacher).expanduser().is_dir():
        raise ValueError(
            f"got teacher {config.teacher!r}, a folder of this machine, expected one that others "
            "can load: push it first, and name it as hf:USER/NAME in latent_clip.json"
        )


def push_latent_clip(
    model: LatentClip, repository: str, *, private: bool = True, dry_run: str | None = None
) -> str:
    """Upload to the Hub as the user who is logged in there; returns the address of the commit.

    Args:
        model: the latent CLIP.
        repository: "USER/NAME".
        private: whether others cannot see it.
        dry_run: a folder to write the files into instead; nothing leaves this machine.

    Raises:
        ValueError: a teacher that is a folder of this machine, which nobody else could load.
    """
    push_check(model.config)
    if dry_run is not None:
        save_latent_clip(model, Path(dry_run))
        return dry_run
    return push(repository, lambda folder: save_latent_clip(model, folder), private=private)
