"""A saved pipeline before diffusers reads it: known libraries, safetensors, no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from clipguide.clip.model_folder import check_folder, read_json

INDEX = "model_index.json"


def check_pipeline(name: str, folder: Path) -> None:
    """Refuse a pipeline that would run code of its own, or read anything but its safetensors.

    diffusers imports the library that each component names, and loads components of transformers
    without saying that no code may be run: transformers then asks.

    Args:
        name: what the user called it, for messages.
        folder: with `model_index.json`.

    Raises:
        ValueError: a pipeline or component class of its own, a library that diffusers does not
            load from; or what `check_folder` refuses, in the folder or in a component's.
    """
    index: object = read_json(name, folder / INDEX)
    if not isinstance(index, dict):
        raise ValueError(f"{name}: got {INDEX} that is no table, expected one")
    components = cast("Mapping[str, Any]", index)
    if not isinstance(components.get("_class_name"), str):
        raise ValueError(
            f"{name}: got a pipeline class of its own ({components.get('_class_name')!r} in "
            f"{INDEX}), expected one of diffusers: code that comes with a model is never run"
        )
    for component, value in components.items():
        if not component.startswith("_") and isinstance(value, list):
            _check_library(name, component, cast("list[object]", value))
    for place in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        check_folder(name, place)


def _check_library(name: str, component: str, value: list[object]) -> None:
    from diffusers import pipelines

    library = value[0] if value else None
    if library is None or library in ("diffusers", "transformers"):
        return
    if not isinstance(library, str) or library not in dir(pipelines):
        raise ValueError(
            f"{name}: got component {component} of {library!r} in {INDEX}, expected diffusers or "
            "transformers: no other code is run"
        )
