"""The hash of a model's settings: what changes its scores while its weights stay as they are.

The same weights with another activation, number of heads, preprocessing or tokenizer give other
vectors. The hash is over the files, not over what a library makes of them, so that it is the same
under every version of the library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

SETTINGS = frozenset({
    "config.json", "preprocessor_config.json", "processor_config.json", "open_clip_config.json",
    "dual_encoder.json", "tokenizer_config.json", "special_tokens_map.json",
})  # fmt: skip
"""Files whose values count, whatever their order and layout."""
VOCABULARIES = ("tokenizer.json", "vocab*", "merges.txt", "added_tokens.json", "*.model", "*.codes")
"""Files of tokenizers, of which every byte counts."""
INERT = frozenset({
    "_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype",
})  # fmt: skip
"""Settings that say where a model comes from, or as what its weights were kept: those are in the
hash of the weights."""


def hash_settings(folder: str | Path) -> str:
    """SHA-256 over a model folder's settings and tokenizer, 64 hexadecimal digits.

    Args:
        folder: with the files of `SETTINGS` and `VOCABULARIES`, in it or in a folder "tokenizer".

    Cost: reads those files, some milliseconds.

    Raises:
        ValueError: a file of settings that is not JSON.
    """
    place = Path(folder)
    digest = hashlib.sha256()
    for file in _files(place):
        data = _canonical(file) if file.name in SETTINGS else file.read_bytes()
        digest.update(f"{file.relative_to(place).as_posix()} {len(data)}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def hash_values(**values: object) -> str:
    """The same of settings in memory, values of JSON by name."""
    return hashlib.sha256(_encoded(values)).hexdigest()


def same_settings(one: str, other: str) -> bool:
    """Whether two hashes of settings agree; one that is empty is not known, and agrees."""
    return not one or not other or one == other


def _files(folder: Path) -> Iterator[Path]:
    for place in (folder, folder / "tokenizer"):
        found = {place / name for name in SETTINGS}
        found.update(file for pattern in VOCABULARIES for file in place.glob(pattern))
        yield from sorted(file for file in found if file.is_file())


def _canonical(file: Path) -> bytes:
    try:
        return _encoded(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"got {file.name} that is not JSON ({error})") from error


def _encoded(value: object) -> bytes:
    return json.dumps(_without_inert(value), sort_keys=True).encode()


def _without_inert(value: Any) -> Any:
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return {key: _without_inert(item) for key, item in table.items() if key not in INERT}
    if isinstance(value, list):
        return [_without_inert(item) for item in cast("list[Any]", value)]
    return value
