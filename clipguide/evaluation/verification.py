"""Does this installation give the numbers that were published? What a check is, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Status = Literal["PASS", "FAIL", "SKIPPED"]


class Skipped(Exception):
    """A check cannot run here; the message says what it lacks, and how to get it."""


@dataclass(frozen=True)
class Figure:
    """One number: what it is, what was got, what is expected, and how far apart they may be."""

    name: str
    got: float
    expected: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """Within the tolerance; NaN is not."""
        return math.isfinite(self.got) and abs(self.got - self.expected) <= self.tolerance

    def __str__(self) -> str:
        return f"{self.name} {self.got:.6g} (expected {self.expected:.6g} ± {self.tolerance:.3g})"


@dataclass(frozen=True)
class Check:
    """One line of `clipguide verify`.

    Attributes:
        name: in a few words.
        source: where the expected numbers are from.
        run: the figures, given the folder of data (None: there is none). May raise `Skipped`.
    """

    name: str
    source: str
    run: Callable[[Path | None], Sequence[Figure]]


@dataclass(frozen=True)
class Verdict:
    """What became of a check. `detail`: its figures, or why it failed or was skipped."""

    status: Status
    name: str
    source: str
    detail: str
    figures: tuple[Figure, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object; numbers that JSON lacks are texts in `detail` alone."""
        figures = [
            {**asdict(figure), "ok": figure.ok}
            for figure in self.figures
            if math.isfinite(figure.got)
        ]
        return {**asdict(self), "figures": figures}

    def __str__(self) -> str:
        return f"{self.status}  {self.name}: {self.detail} [{self.source}]"


def verify(check: Check, data: Path | None) -> Verdict:
    """Runs a check. Whatever it raises but `Skipped` is a FAIL that says so.

    Example:
        >>> pi = Check("pi", "Archimedes", lambda data: [Figure("pi", 3.141, 22 / 7, 0.01)])
        >>> verify(pi, None).status
        'PASS'
    """
    try:
        figures = tuple(check.run(data))
    except Skipped as reason:
        return Verdict("SKIPPED", check.name, check.source, str(reason))
    except Exception as error:  # a broken installation may raise anything
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Verdict("FAIL", check.name, check.source, detail)
    bad = [figure for figure in figures if not figure.ok]
    detail = "; ".join(map(str, bad or figures))
    return Verdict("FAIL" if bad else "PASS", check.name, check.source, detail, figures)
