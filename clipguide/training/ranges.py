"""Ranges of the numbers in settings; a number outside its range, or no number, is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`; `open_low`, `open_high`: not that end itself."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return value not in (math.inf, -math.inf) and above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
        high = "below 2**63" if self.high == 2**63 else f"below {self.high:g}"
        high = high if self.open_high else f"up to {self.high:g}"
        return f"above {self.low:g} and {high}" if self.open_low else f"from {self.low:g}, {high}"


# a rate times its factors must stay a float32, or torch fails without naming a setting
RATE = Range(0, 1e30, open_low=True)
FACTOR = Range(0, 1000)
ABOVE_ZERO = Range(0, open_low=True)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, open_high=True)
SEED = Range(0, 2**63, open_high=True)


def check_ranges(settings: object, ranges: Mapping[str, Range], place: str = "") -> None:
    """Every field of `settings` that `ranges` names lies in its range.

    Raises:
        ValueError: one does not, NaN and infinity among them; it is named as `place` and its name.
    """
    for name, expected in ranges.items():
        value = getattr(settings, name)
        if value not in expected:
            raise ValueError(f"got {place}{name} {value}, expected {expected}")
