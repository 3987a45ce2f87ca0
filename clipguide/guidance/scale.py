"""How large a step is and where it goes: the two choices in which published methods differ.

A *scale* is the factor of the gradient at a noise level. A *target* is what the displacement moves:
the model output, from which the scheduler makes everything consistent, or the sample that the
scheduler returns. In the papers' variance-preserving notation alpha² is the cumulative product of
their alphas, and (alpha/alpha')² the alpha of the step from t to t-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from clipguide.guidance.parameterization import NoiseLevel


@dataclass(frozen=True)
class Levels:
    """The noise level of a step, and the one it leads to where that is known."""

    now: NoiseLevel
    following: NoiseLevel | None = None

    def next(self) -> NoiseLevel:
        """The following level.

        Raises:
            ValueError: it is not known.
        """
        if self.following is None:
            raise ValueError("got a step without its following noise level, expected one")
        return self.following

    @property
    def signal_ratio(self) -> float:
        """alpha/alpha' of the step, at most 1 in variance-preserving space."""
        return self.now.alpha / self.next().alpha


# name -> factor of the gradient; `posterior` is the mode's own: C_t at x0, sigma²/alpha at x_t
SCALES: dict[str, Callable[[Levels, float], float]] = {
    "posterior": lambda levels, posterior: posterior,
    "constant": lambda levels, posterior: 1.0,
    "alpha": lambda levels, posterior: levels.now.alpha / levels.now.radius,
    "increase": lambda levels, posterior: levels.signal_ratio**2,
}

# name -> what a displacement of 1 adds to the sample that the scheduler returns
TARGETS: dict[str, Callable[[Levels], float]] = {
    "output": lambda levels: 0.0,  # x0 moves through the model output, its noise with it
    "clean": lambda levels: levels.next().alpha,  # x0 moves, its noise stays
    "noisy": lambda levels: 1.0 / levels.signal_ratio,  # x_t moves, carried on as signal
    "next": lambda levels: 1.0,  # the returned sample itself
}


def needs_following(scale: str, target: str) -> bool:
    """Whether a scale or a target asks for the noise level that a step leads to."""
    return scale == "increase" or target != "output"
