"""Filters on metadata: `date>=2024-05-01`, `size<2MB`, `folder=holiday/2024`, `prompt~fox`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

Sql = tuple[str, Sequence[object]]  # a condition and its values

_DECIMAL = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS = _DECIMAL | {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SHAPE = re.compile(r"\s*(\w+)\s*(<=|>=|!=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """One condition: a field, how it is compared (`OPERATORS`), and with what."""

    name: str
    operator: str
    value: str

    def sql(self) -> Sql:
        """As an SQL condition on contents c and items i.

        Raises:
            ValueError: a value that is none of the field's kind.
        """
        return FIELDS[self.name](self)


def parse_filter(text: str) -> Filter:
    """`NAME OPERATOR VALUE`, e.g. `width>=1024`.

    Fields: date (when the file was changed: `2024-05-01` or `2024-05-01T12:30`, local time), size
    (`100KB`, `2MiB`), width, height, seed, score, folder (and all below it), name, path, prompt,
    negative, text. Operators: = != < <= > >=, and ~ for "contains" (letters of any case). An item
    without the field never matches.

    Raises:
        ValueError: unknown field, an operator the field lacks, or a value of another kind.

    Example:
        >>> parse_filter("prompt ~ red fox")
        Filter(name='prompt', operator='~', value='red fox')
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        example = "expected FIELD, one of = != < <= > >= ~, and a value: date>=2024-05-01"
        raise ValueError(f"got filter {text!r}, {example}")
    name, operator, value = match.groups()
    if name not in FIELDS:
        raise ValueError(f"got filter on {name!r}, expected one of {', '.join(FIELDS)}")
    parsed = Filter(name, operator, value)
    parsed.sql()
    return parsed


def condition(filters: Sequence[Filter]) -> Sql:
    """All of them together; without filters a condition that is always true."""
    pairs = [one.sql() for one in filters]
    return " AND ".join(sql for sql, _ in pairs) or "1", [v for _, some in pairs for v in some]


def _number(column: str, parse: Callable[[str], float]) -> Callable[[Filter], Sql]:
    def sql(one: Filter) -> Sql:
        _check(one, "= != < <= > >=")
        try:
            value = parse(one.value)
        except ValueError as error:
            raise ValueError(
                f"got {one.name} {one.value!r} in a filter, expected {error}"
            ) from None
        return f"{column} {one.operator} ?", [value]

    return sql


def _words(column: str) -> Callable[[Filter], Sql]:
    def sql(one: Filter) -> Sql:
        _check(one, "= != ~")
        if one.operator == "~":
            return f"instr(lower({column}), lower(?)) > 0", [one.value]
        return f"{column} {one.operator} ?", [one.value]

    return sql


def _folder(one: Filter) -> Sql:
    _check(one, "= !=")
    below = one.value.strip("/") + "/"
    if below == "./" or below == "/":
        return ("1", []) if one.operator == "=" else ("0", [])
    return f"substr(i.path, 1, ?) {one.operator} ?", [len(below), below]


def _name(one: Filter) -> Sql:
    # what follows the last slash: the path without everything up to it
    return _words("replace(i.path, rtrim(i.path, replace(i.path, '/', '')), '')")(one)


def _date(one: Filter) -> Sql:
    _check(one, "= != < <= > >=")
    try:
        start = datetime.fromisoformat(one.value)
    except ValueError:
        expected = "expected a date like 2024-05-01 or 2024-05-01T12:30"
        raise ValueError(f"got date {one.value!r} in a filter, {expected}") from None
    day = re.fullmatch(r"\d{4}-?\d\d-?\d\d", one.value) is not None
    end = start + (timedelta(days=1) if day else timedelta(microseconds=1))
    low, high = (int(moment.timestamp() * 1e6) * 1000 for moment in (start, end))
    column = "i.mtime_ns"
    return {
        "=": (f"({column} >= ? AND {column} < ?)", [low, high]),
        "!=": (f"({column} < ? OR {column} >= ?)", [low, high]),
        "<": (f"{column} < ?", [low]),
        "<=": (f"{column} < ?", [high]),
        ">": (f"{column} >= ?", [high]),
        ">=": (f"{column} >= ?", [low]),
    }[one.operator]


def _check(one: Filter, operators: str) -> None:
    if one.operator not in operators.split():
        raise ValueError(f"got {one.name}{one.operator}, expected one of {operators}")


def _size(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]*)", text)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError("a size like 500KB or 2MiB")
    return _plain(match[1]) * _UNITS[match[2].upper()]


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise ValueError("a whole number")
    return int(text)


def _plain(text: str) -> float:
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?", text):
        raise ValueError("a number")
    return float(text)


FIELDS: dict[str, Callable[[Filter], Sql]] = {
    "date": _date,
    "size": _number("i.bytes", _size),
    "width": _number("c.width", _whole),
    "height": _number("c.height", _whole),
    "seed": _number("c.seed", _whole),
    "score": _number("c.score", _plain),
    "folder": _folder,
    "name": _name,
    "path": _words("i.path"),
    "prompt": _words("c.prompt"),
    "negative": _words("c.negative"),
    "text": _words("c.text"),
}
"""Field -> how it becomes SQL."""
