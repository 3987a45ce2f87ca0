"""A scorer that other processes can be sent by its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.clip.settings_hash import same_settings


@dataclass(frozen=True)
class ScorerName:
    """What a worker loads; in the process that has the scorer, the scorer itself.

    Attributes:
        name: of `load_scorer`.
        content_hash: of the caller's weights.
        device: the caller's; on one of CUDA a worker takes the GPU that it was given.
        settings_hash: of the caller's configuration and tokenizer; empty where they are not known.
        at_hand: the caller's scorer; None in another process, or where it is not to be used.
    """

    name: str
    content_hash: str
    device: str
    settings_hash: str = ""
    at_hand: Scorer | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, scorer: Scorer) -> ScorerName:
        """A loaded scorer's."""
        return cls(
            scorer.name, scorer.content_hash, str(scorer.device), scorer.settings_hash, scorer
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ScorerName, (self.name, self.content_hash, self.device, self.settings_hash)

    def load(self) -> Scorer:
        """The same scorer as the caller's.

        Raises:
            ValueError: it has other weights or settings.
        """
        if self.at_hand is not None:
            return self.at_hand
        device = "cuda" if self.device.startswith("cuda") else self.device
        scorer = load_scorer(self.name, device=device)
        if scorer.content_hash != self.content_hash:
            raise ValueError(f"the worker's {self.name} has other weights than the caller's")
        if not same_settings(scorer.settings_hash, self.settings_hash):
            raise ValueError(f"the worker's {self.name} has other settings than the caller's")
        return scorer
