"""The rewards of a search, by the stage of a sample that they are asked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clipguide.rewards.base import Reward

Stage = Literal["climbed", "preview", "final"]


@dataclass(frozen=True)
class StageRewards:
    """What is climbed by guidance, what previews are ranked by, and what finished pictures.

    Attributes:
        climbed: of images, of latents, or of both.
        preview: of x0 previews; None: `climbed`.
        final: of finished pictures; None: `climbed`.
    """

    climbed: Reward
    preview: Reward | None = None
    final: Reward | None = None

    def at(self, stage: Stage) -> Reward:
        """That of a stage."""
        others = {"preview": self.preview, "final": self.final}
        return others.get(stage) or self.climbed

    def for_entries(self, rows: Sequence[int]) -> StageRewards:
        """Those of a batch, image i of which belongs to prompt `rows[i]`."""
        preview, final = (
            None if one is None else one.for_entries(rows) for one in (self.preview, self.final)
        )
        return StageRewards(self.climbed.for_entries(rows), preview, final)
