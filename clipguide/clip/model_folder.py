"""A saved model before a library reads it: safetensors alone, no code, nothing outside its folder.

The libraries below follow what a folder's JSON files say: to a pickle, to another model, to code
that they ask whether to run. What they would follow is looked at here first, and refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""Suffixes of weights that run code when they are read; none is ever read."""
MAX_CONFIG = 2**23
"""Bytes of a JSON file of settings, 8 MiB; the largest known hold the names of 21,000 classes."""
MAX_VOCABULARY = 2**28
"""Bytes of a JSON file with a vocabulary, 256 MiB."""
MAX_DEPTH = 1000
"""Layers or heads of a tower; the deepest known has some hundred."""

_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
_COUNTS = re.compile(r"(num_(hidden_|attention_|key_value_)?(layers|heads)|n_?layers|n_?heads"
                     r"|layers|heads|depth|depths)")  # fmt: skip
_INDEX = ".index.json"


def check_folder(name: str, folder: Path) -> None:
    """Refuse a folder whose JSON files would lead a library to anything but its own safetensors.

    Args:
        name: what the user called the model, for messages.
        folder: looked at alone, not the folders in it.

    Raises:
        ValueError: code of the model's own; an adapter of another model; an index of shards that
            names another file than a safetensors of the folder; settings that name weights or code
            elsewhere, or more layers than there can be; JSON that is too large, or is not JSON.
    """
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{name}: got an adapter (adapter_config.json), expected a whole model: merge it first"
        )
    for file in sorted(folder.glob("*.json")):
        if file.name in _VOCABULARIES:
            _check_size(name, file, MAX_VOCABULARY)
            continue
        value = read_json(name, file)
        if file.name.endswith(_INDEX):
            _check_index(name, file, value)
        else:
            check_settings(name, file.name, value)


def read_json(name: str, file: Path) -> Any:
    """The value of a JSON file of settings.

    Raises:
        ValueError: too large, or not JSON.
    """
    _check_size(name, file, MAX_CONFIG)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # also UnicodeDecodeError, nesting
        raise ValueError(f"{name}: got {file.name} that is not JSON ({error})") from error


def _check_size(name: str, file: Path, most: int) -> None:
    size = file.stat().st_size if file.exists() else 0  # a link to nowhere is not read either
    if size > most:
        raise ValueError(f"{name}: got {file.name} of {size} bytes, expected at most {most}")


def _check_index(name: str, file: Path, value: Any) -> None:
    """Every shard that an index of safetensors names is a safetensors file beside it."""
    if not file.name.endswith(f".safetensors{_INDEX}"):
        return  # an index of pickles, which is not read
    table = cast("Mapping[str, Any]", value).get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict):
        raise ValueError(f"{name}: got {file.name} without weight_map, expected one")
    for shard in sorted({str(shard) for shard in cast("dict[str, Any]", table).values()}):
        if Path(shard).suffix != ".safetensors":
            raise ValueError(
                f"{name}: got weights {shard!r} in {file.name}, expected .safetensors (no pickles)"
            )
        if shard != Path(shard).name or "\\" in shard:
            raise ValueError(
                f"{name}: got weights {shard!r} in {file.name}, expected files of its own folder"
            )
        if not (file.parent / shard).is_file():
            raise ValueError(f"{name}: got no {shard}, which {file.name} names")


def check_settings(name: str, file: str, value: Any) -> None:
    """Nothing in settings leads to code, to other weights, or to a tower that cannot be.

    Args:
        name: of the model, for messages.
        file: where the settings stand, for messages.
        value: of JSON, looked through to its depths.

    Raises:
        ValueError: names the setting.
    """
    for key, item in _entries(value):
        if key == "auto_map" and item:
            raise ValueError(
                f"{name}: got code of the model's own (auto_map in {file}), expected a model that "
                "its library knows: code that comes with a model is never run"
            )
        if key.endswith(("attn_implementation", "experts_implementation")) and "/" in str(item):
            raise ValueError(f"{name}: got {key} {item!r} in {file}, expected no code of the Hub")
        if key == "transformers_weights" and item is not None:
            raise ValueError(f"{name}: got {file} that names weights {item!r}, expected none")
        if key == "use_pretrained_backbone" and item:
            raise ValueError(f"{name}: got {file} with weights of another model, expected its own")
        counts = cast("list[object]", item) if isinstance(item, list) else [item]
        if _COUNTS.fullmatch(key) and any(_too_many(count) for count in counts):
            got = f"{key} {item}"[:80]
            raise ValueError(f"{name}: got {got} in {file}, expected at most {MAX_DEPTH}")


def _too_many(count: object) -> bool:
    return isinstance(count, int | float) and not count <= MAX_DEPTH


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, of a JSON value and all within it."""
    waiting: list[Any] = [value]
    while waiting:
        one: Any = waiting.pop()
        if isinstance(one, dict):
            yield from cast("dict[str, Any]", one).items()
            waiting += cast("dict[str, Any]", one).values()
        elif isinstance(one, list):
            waiting += cast("list[Any]", one)


def check_weights(name: str, folder: Path, stem: str = "model") -> None:
    """Refuse a folder without `stem`.safetensors, whole or in shards; pickles there are named."""
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors{_INDEX}"
    if not whole.is_file() and not index.is_file():
        found = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES]
        raise ValueError(f"{name}: got weights {found}, expected {whole.name} (no pickles)")
