"""Settings files: TOML or YAML with environment variables, changes a.b=c, tables as dataclasses."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, cast

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def parse_file(file: Path) -> dict[str, Any]:
    """The table of a `.toml`, `.yaml` or `.yml` file."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    try:
        if file.suffix in (".yaml", ".yml"):
            import yaml

            value: object = yaml.safe_load(text)
        elif file.suffix == ".toml":
            value = tomllib.loads(text)
        else:
            raise ValueError(f"got suffix {file.suffix!r}, expected .toml, .yaml or .yml")
    except Exception as error:  # yaml.YAMLError, TOMLDecodeError, the line above
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: got no table, expected keys and values")
    return cast("dict[str, Any]", value)


def expanded(value: Any) -> Any:
    """`${NAME}` and `${NAME:-text}` in texts, replaced."""
    if isinstance(value, dict):
        return {key: expanded(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [expanded(item) for item in cast("list[Any]", value)]
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(match: re.Match[str]) -> str:
    name, default = match.groups()
    if name not in os.environ and default is None:
        raise ValueError(f"got no environment variable {name}, expected it to be set")
    return os.environ.get(name) or default or ""


def set_value(table: dict[str, Any], change: str) -> None:
    """Make a change `a.b=c` in place."""
    name, equals, text = change.partition("=")
    if not equals or not name:
        raise ValueError(f"got change {change!r}, expected a.b=c")
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *folders, last = name.split(".")
    for folder in folders:
        inner: object = table.setdefault(folder, {})
        table = table_at(inner, folder)
    table[last] = value


def table_at(value: object, place: str) -> dict[str, Any]:
    """The value, which must be a table."""
    if not isinstance(value, dict):
        raise ValueError(f"got {place} {value!r}, expected a table")
    return cast("dict[str, Any]", value)


def build(kind: type[T], value: object, place: str) -> T:
    """The dataclass from a table: known keys, and values of the type of their default."""
    table = table_at(value, place)
    known: dict[str, Any] = {entry.name: entry for entry in fields(cast(Any, kind))}
    for key, item in table.items():
        name = f"{place}.{key}".lstrip(".")
        if key not in known:
            raise ValueError(f"got key {name}, expected one of {', '.join(known)}")
        table = {**table, key: _typed(item, known[key].default, name)}
    return kind(**table)


def _typed(value: Any, default: object, name: str) -> Any:
    if not isinstance(default, (str, int, float, tuple)):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(map(str, cast("list[object]", value)))
    if type(value) is not type(default):
        raise ValueError(f"got {name} = {value!r}, expected a {type(default).__name__}")
    return value
