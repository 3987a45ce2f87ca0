"""How one scorer or several rank images, and how rankings are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.rerank_scores import Known

if TYPE_CHECKING:
    from clipguide.rerank import Ranked

JOINS = ("rank", "score", "cascade")


@dataclass(frozen=True)
class Joined:
    """How one scorer or several decide.

    Attributes:
        names: of the scorers; none: the starter for its own pictures.
        join: one of `JOINS`.
        weights: of each; none: equal.
        keep: of a cascade.
    """

    names: list[str]
    join: str
    weights: tuple[float, ...]
    keep: int | None

    def check(self) -> None:
        """Mistake where the options do not fit together."""
        if self.join not in JOINS:
            raise Mistake(f"got --join {self.join!r}, expected one of {', '.join(JOINS)}")
        if self.weights and (self.join == "cascade" or len(self.weights) != len(self.names)):
            raise Mistake(
                f"got {len(self.weights)} --weight for {len(self.names)} --scorer, expected one "
                "each, and --join rank or score"
            )
        if self.keep is not None and self.join != "cascade":
            raise Mistake("got --keep, expected --join cascade too")

    def scorer(self, known: list[Known]) -> Any:
        """What `rerank` takes."""
        from clipguide.clip.ensemble import Ensemble

        if len(known) == 1 or self.join == "cascade":
            return known
        return Ensemble([*known], self.weights or None, by=self.join)

    def convention(self, known: list[Known]) -> str:
        """What the numbers are; of a cascade those of the scorer that saw an image last."""
        if len(known) == 1:
            return known[0].convention
        if self.join == "cascade":
            return "cascade: the last scorer's that saw it"
        return f"mean {self.join}"


@dataclass(frozen=True)
class Shown:
    """Rankings as data or as a table.

    Attributes:
        convention, scorer: what the numbers are, and whose.
        top_k: how many of each ranking; None: all.
    """

    convention: str
    scorer: str
    top_k: int | None

    def as_json(self, groups: dict[str, list[Ranked]], prompt: str | None) -> dict[str, Any]:
        """With the rows of the prompt, or of each prompt of a table."""
        if prompt is not None:
            return {"prompt": prompt, "scorer": self.scorer, "results": self._rows(groups[prompt])}
        found = [{"prompt": text, "results": self._rows(rows)} for text, rows in groups.items()]
        return {"scorer": self.scorer, "groups": found}

    def print(self, groups: dict[str, list[Ranked]], prompt: str | None) -> None:
        """A table."""
        from clipguide.report.table import Cell, format_table

        rows: list[list[Cell]] = []
        for text, ranked in groups.items():
            for rank, row in enumerate(ranked[: self.top_k], 1):
                own: list[Cell] = [rank, row.score, str(row.image)]
                rows.append(own if prompt is not None else [text, *own])
        head = ["rank", self.convention.partition(":")[0], "image"]
        head = head if prompt is not None else ["prompt", *head]
        typer.echo(format_table(head, rows, digits=4))

    def _rows(self, ranked: list[Ranked]) -> list[dict[str, Any]]:
        return [
            {"rank": rank, "image": str(row.image), "value": row.score}
            | {"convention": self.convention, "scorer": row.scorer or self.scorer}
            for rank, row in enumerate(ranked[: self.top_k], 1)
        ]
