"""Settings of search methods that are numbers."""

from __future__ import annotations

from dataclasses import fields
from numbers import Integral, Real
from typing import Any

_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
}


def check_numbers(settings: Any) -> None:
    """Of a dataclass, the fields that are whole numbers and numbers; true and false are none.

    Raises:
        ValueError: another kind of value, with the field's name.
    """
    for one in fields(settings):
        if str(one.type) in _KINDS:
            kind, expected = _KINDS[str(one.type)]
            value = getattr(settings, one.name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ValueError(f"got {one.name}={value!r}, expected {expected}")
