"""How one scorer or several rank images, and how rankings are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipguide.cli.mistakes import Mistake
from clipguide.cli.rerank_scores import Asked, Known, Narrow, all_asked

if TYPE_CHECKING:
    from clipguide.rerank import Ranked

JOINS = ("rank", "score", "cascade")


@dataclass(frozen=True)
class Order:
    """What `clipguide.rerank.rerank` is told of the order.

    Attributes:
        top_k: how many are asked for; None: all.
        keep: of a cascade, how many go on; None: a quarter.
        diversity: in [0, 1].
    """

    top_k: int | None = None
    keep: int | None = None
    diversity: float = 0.0

    def check(self) -> None:
        """Mistake where a value is out of range, before anything is scored."""
        if not 0 <= self.diversity <= 1:
            raise Mistake(f"got --diversity {self.diversity:g}, expected a number in [0, 1]")
        if self.keep is not None and self.top_k is not None and self.keep < self.top_k:
            raise Mistake(f"got --keep {self.keep}, expected at least --top-k {self.top_k}")


@dataclass(frozen=True)
class Joined:
    """How one scorer or several decide.

    Attributes:
        names: of the scorers; none: the starter for its own pictures.
        join: one of `JOINS`.
        weights: of each; none: equal.
        order: what is asked of them.
    """

    names: list[str]
    join: str
    weights: tuple[float, ...]
    order: Order

    def check(self) -> None:
        """Mistake where the options do not fit together."""
        self.order.check()
        if self.join not in JOINS:
            raise Mistake(f"got --join {self.join!r}, expected one of {', '.join(JOINS)}")
        if self.weights and (self.join == "cascade" or len(self.weights) != len(self.names)):
            raise Mistake(
                f"got {len(self.weights)} --weight for {len(self.names)} --scorer, expected one "
                "each, and --join rank or score"
            )
        bad = [one for one in self.weights if not (math.isfinite(one) and one >= 0)]
        if bad or (self.weights and not sum(self.weights)):
            got = " ".join(f"{one:g}" for one in self.weights)
            raise Mistake(f"got --weight {got}, expected numbers >= 0, not all 0")
        if self.order.keep is not None and self.join != "cascade":
            raise Mistake("got --keep, expected --join cascade too")
        if self.order.diversity and self.join != "cascade" and len(self.names) > 1:
            raise Mistake(
                f"got --diversity with --join {self.join}, whose mean has no vectors: expected one "
                "--scorer, or --join cascade"
            )

    def narrow(self) -> Narrow:
        """What the next scorer is asked: of a cascade what the one before it keeps."""
        from clipguide.rerank import default_keep, rerank

        def best(asked: Asked, answered: Known) -> Asked:
            kept: set[tuple[str, str]] = set()
            for text, files in files_of(asked).items():
                limit = self.order.keep or default_keep(len(files), self.order.top_k)
                kept |= {(str(row.image), text) for row in rerank(files, text, answered, limit)}
            left = {name: [t for t in own if (name, t) in kept] for name, own in asked.items()}
            return {name: own for name, own in left.items() if own}

        return best if self.join == "cascade" else all_asked

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


def files_of(asked: Asked) -> dict[str, list[Path]]:
    """The images of each prompt."""
    files: dict[str, list[Path]] = {}
    for name, prompts in asked.items():
        for prompt in prompts:
            files.setdefault(prompt, []).append(Path(name))
    return files


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
