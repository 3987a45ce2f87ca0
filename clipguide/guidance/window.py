"""When to guide: an interval of noise levels, and every k-th step inside it."""

from __future__ import annotations

from dataclasses import dataclass

from clipguide.guidance.parameterization import NoiseLevel


@dataclass(frozen=True)
class Window:
    """Guide where low <= sigma_bar <= high, there every `every`-th step.

    Levels are sigma_bar = sigma / sqrt(alpha² + sigma²) in [0, 1], 1 being pure noise: the same
    numbers mean the same for every scheduler and parametrisation, and for image-to-image, which
    starts in the middle. (0.6, 1.0) is the early, layout-deciding part; (0, 1) is everything.
    """

    low: float = 0.0
    high: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"got window ({self.low}, {self.high}), expected 0 <= low <= high <= 1 in units of "
                "sigma_bar = sigma / sqrt(alpha² + sigma²)"
            )
        if self.every < 1:
            raise ValueError(f"got every={self.every}, expected 1 or more")

    def covers(self, level: NoiseLevel) -> bool:
        """Whether the level lies in the interval."""
        return self.low <= level.sigma_bar <= self.high

    def guides(self, level: NoiseLevel, earlier: int) -> bool:
        """Whether to guide a step at `level` after `earlier` steps inside the interval."""
        return self.covers(level) and earlier % self.every == 0
