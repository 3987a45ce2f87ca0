"""Settings that people share: published methods by name, files, and pictures made with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from clipguide.guidance import presets
from clipguide.guidance.config import GuidanceConfig
from clipguide.report.metadata import read_metadata
from clipguide.texts import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

METHODS: dict[str, Callable[[float], GuidanceConfig]] = {
    "dps": presets.dps,
    "flowchef": presets.flowchef,
    "freedom": presets.freedom,
    "lgd": presets.lgd,
    "mpgd": presets.mpgd,
    "tilted": presets.tilted,
    "universal": presets.universal,
}
"""Published ways of guiding by their step size, see `clipguide.guidance.presets`."""

OWN = ("model", "device", "dtype", "start", "any_autoencoder")
"""Settings of a machine or of one picture, which no preset has."""


TABLES = ("guidance", "views")
"""Settings that are tables themselves."""


def read_preset(name: str, strength: float | None = None) -> dict[str, Any]:
    """The settings of a preset, nested as `settings_for` takes them.

    Args:
        name: one of `METHODS`; a .toml or .json file of settings (keys as in the `settings` of a
            picture's record, `guidance` and `views` as tables); or a PNG made by `generate`, whose
            settings are taken.
        strength: the step size of a method; methods have none of their own, since it depends on the
            reward.

    Raises:
        ValueError: neither a method nor such a file, a method without a strength, a file without
            settings, a setting that no preset has (`OWN`). Unknown names and values out of range
            are said by `settings_for`.

    Example:
        >>> read_preset("dps", 0.5)["guidance"]["mode"]
        'xt'
    """
    if name in METHODS:
        if strength is None:
            raise ValueError(f"{name} has no step size of its own: give --strength")
        config = asdict(METHODS[name](strength))
        return {"search": None, "preview": None, "final": None, "guidance": config}
    file = Path(name)
    readers = {".toml": _of_toml, ".json": _of_json, ".png": _of_picture}
    if file.suffix.lower() not in readers:
        known = ", ".join(METHODS)
        raise ValueError(
            f"got preset {name!r}, expected one of {known}, a .toml or .json file, or a PNG made "
            "by clipguide generate"
        )
    found = readers[file.suffix.lower()](file)
    for key in OWN:
        if key in found:
            raise ValueError(f"{file}: got {key}, which is not for a preset to say")
    for key in TABLES:
        if not isinstance(found.get(key, {}), Mapping):
            raise ValueError(f"{file}: got {key} {found[key]}, expected a table of settings")
    return found


def merged(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The preset with what was given in the place of its own."""
    both = {**preset, **given}
    for name in TABLES:
        both[name] = {**preset.get(name, {}), **given.get(name, {})}
    return both


def _of_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}") from error


def _of_json(file: Path) -> dict[str, Any]:
    try:
        found: object = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        if str(error).startswith(str(file)):
            raise
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: got a {type(found).__name__}, expected an object of settings")
    return cast("dict[str, Any]", found)


def _of_picture(file: Path) -> dict[str, Any]:
    record = read_metadata(file).record
    settings: object = None if record is None else record.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: no clipguide record with settings in it")
    return {
        name: value for name, value in cast("dict[str, Any]", settings).items() if name not in OWN
    }
