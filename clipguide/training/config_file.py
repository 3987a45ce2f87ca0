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

from clipguide.training.yaml_file import parse_yaml

MAX_BYTES = 2**20
"""Of a settings file."""
T = TypeVar("T")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def parse_file(file: Path) -> dict[str, Any]:
    """The table of a `.toml`, `.yaml` or `.yml` file of at most `MAX_BYTES`.

    Raises:
        ValueError: it cannot be read, or is larger, or is not a table with texts as keys.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"got more than {MAX_BYTES} bytes, expected a table of settings")
        value = _parsed(file.suffix, data.decode("utf-8").replace("\r\n", "\n"))
        if not isinstance(value, dict):
            raise ValueError("got no table, expected keys and values")
    except RecursionError as error:
        raise ValueError(f"{file}: got tables nested too deep to be read") from error
    except Exception as error:  # OSError, UnicodeDecodeError, YAMLError, TOMLDecodeError, the above
        raise ValueError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    return cast("dict[str, Any]", value)


def _parsed(suffix: str, text: str) -> object:
    if suffix in (".yaml", ".yml"):
        return parse_yaml(text)
    if suffix == ".toml":
        return tomllib.loads(text)
    raise ValueError(f"got suffix {suffix!r}, expected .toml, .yaml or .yml")


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
            own = [entry for entry in kind.__annotations__ if entry in known]
            names = dict.fromkeys([*own, *known])  # the table's own first, then the shared ones
            raise ValueError(f"got key {name}, expected one of {', '.join(names)}")
        table = {**table, key: _typed(item, known[key].default, name)}
    return kind(**table)


def _typed(value: Any, default: object, name: str) -> Any:
    if not isinstance(default, (str, int, float, tuple)):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        kind = float if default and all(isinstance(one, float) for one in default) else str
        return tuple(map(kind, cast("list[Any]", value)))
    if type(value) is not type(default):
        raise ValueError(f"got {name} = {value!r}, expected a {type(default).__name__}")
    return value
