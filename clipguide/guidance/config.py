"""The settings of guidance as one frozen value: what an image's metadata stores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from clipguide.guidance.step_rule import NORMALIZE
from clipguide.guidance.window import Window

Mode = Literal["x0", "xt"]
Normalize = Literal["rms", "raw", "cfg", "clamp"]
MODES = ("x0", "xt")


@dataclass(frozen=True)
class GuidanceConfig:
    """How far, by which gradient and when to guide. `dataclasses.asdict` gives plain JSON values.

    Attributes:
        strength: 0 or more; 0 is bit-exactly the unguided image. With "rms" the root mean square
            of the displacement of x0 in units of sqrt(C_t)·rms(x0); with "raw" the factor of the
            reward's gradient; with "cfg" a fraction of classifier-free guidance's displacement.
        mode: "x0", the gradient with respect to the predicted clean latent; or "xt", the exact
            gradient through denoiser and classifier-free guidance.
        normalize: "rms" | "raw" | "cfg" | "clamp" (raw, but never more than rms).
        damping: tau > 0, the width of the reward in latent units; strength becomes
            strength / (1 + C_t/tau²). None: not damped.
        window: (low, high), guided where low <= sigma_bar <= high; see `Window`.
        every: of the steps in the window, guide the first and then every `every`-th.

    Raises:
        ValueError: a value outside these ranges (NaN included), with what was expected.
    """

    strength: float = 0.1
    mode: Mode = "x0"
    normalize: Normalize = "rms"
    damping: float | None = None
    window: tuple[float, float] = (0.0, 1.0)
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", tuple(self.window))  # a list, as JSON gives it
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"got strength {self.strength}, expected a finite number >= 0")
        if self.mode not in MODES:
            raise ValueError(f"got mode {self.mode!r}, expected one of {MODES}")
        if self.normalize not in NORMALIZE:
            raise ValueError(f"got normalize {self.normalize!r}, expected one of {(*NORMALIZE,)}")
        if self.damping is not None and not (math.isfinite(self.damping) and self.damping > 0):
            raise ValueError(f"got damping {self.damping}, expected None or a finite number > 0")
        if len(self.window) != 2:
            raise ValueError(f"got window {self.window}, expected a pair (low, high)")
        self.steps()

    def steps(self) -> Window:
        """The window as a checked object."""
        return Window(*self.window, every=self.every)
