"""A page that shows what lies just on either side of each threshold of a filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipguide.report.gallery import Card, Section, gallery

SHOWN = 12
"""Pictures on each side of a threshold."""


@dataclass(frozen=True)
class Sides:
    """What a rule with a threshold parts.

    Attributes:
        says: the rule, for people.
        kept, dropped: the pictures nearest to the threshold, nearest first.
    """

    says: str
    kept: tuple[Card, ...]
    dropped: tuple[Card, ...]


def filter_page(title: str, sides: Sequence[Sides], folder: Path) -> str:
    """The page as text, see `clipguide.report.gallery.gallery`.

    Example:
        >>> page = filter_page("9 of 10 kept", [Sides("smaller side >= 64", (), ())], Path())
        >>> page.count("<h2>")
        2
    """
    sections: list[Section] = []
    for one in sides:
        sections.append(Section(f"{one.says}: just kept", one.kept))
        sections.append(Section(f"{one.says}: just dropped", one.dropped))
    return gallery(title, sections, folder)


def cards_of(places: Sequence[int], card: Callable[[int], Sequence[Card]]) -> tuple[Card, ...]:
    """The cards of items, in order; an item may have several (a picture and the one it repeats)."""
    return tuple(one for place in places for one in card(place))
