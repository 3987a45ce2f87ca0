"""What a tower is made of, whichever library saved it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from clipguide.clip.settings_hash import hash_settings

Half = Literal["text", "image"]


class NoTower(Exception):
    """A model or prompt that no tower has a rule for: take the whole model."""


@dataclass(frozen=True)
class TowerParts:
    """One half of a saved CLIP.

    Attributes:
        config: its settings, named as transformers names them.
        weights: of that half alone, named as transformers names them.
        tokens: a prompt -> its token ids, start and end included; None for the image half.
        context_length: tokens that it reads; 0 for the image half.
        settings_hash: see `hash_settings`.
    """

    config: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tokens: Callable[[str], list[int]] | None
    context_length: int
    settings_hash: str


def settings_hash(folder: Path) -> str:
    """The hash of a folder's settings.

    Raises:
        NoTower: settings that cannot be read.
    """
    try:
        return hash_settings(folder)
    except (OSError, ValueError) as error:
        raise NoTower(str(error)) from error


def read_json(file: Path) -> dict[str, Any]:
    """Raises NoTower: no such file, or no JSON."""
    try:
        value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoTower(str(error)) from error
    return value
