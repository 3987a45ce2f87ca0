"""The settings of guidance as one frozen value: what an image's metadata stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from clipguide.guidance.scale import SCALES, TARGETS, needs_following
from clipguide.guidance.smoothing import AVERAGES
from clipguide.guidance.step_rule import NORMALIZE
from clipguide.guidance.window import Window
from clipguide.rewards.base import Reward


@dataclass(frozen=True)
class ModeExport:
    """Where a mode is, and what it leaves at its default.

    Named, not imported: a mode knows diffusers' schedulers, and this layer does not.
    `clipguide.attach.modes.find_mode` imports the one that is asked for.

    Attributes:
        where: "module:class".
        without: the settings that mean nothing to it.
    """

    where: str
    without: tuple[str, ...] = ("reward_width",)


# mode -> its export; the class is one file's
MODES: dict[str, ModeExport] = {
    "x0": ModeExport("clipguide.attach.modes.x0:CleanGradient"),
    "xt": ModeExport("clipguide.attach.modes.xt:ExactGradient"),
    "noisy": ModeExport(
        "clipguide.attach.modes.noisy:NoisyGradient",
        ("reward_width", "damping", "smoothing", "refine"),
    ),
    "tilt": ModeExport(
        "clipguide.attach.modes.tilt:TiltedPrior", ("damping", "scale", "target", "refine")
    ),
}


@dataclass(frozen=True)
class GuidanceConfig:
    """How far, by which gradient and when to guide. `dataclasses.asdict` gives plain JSON values.

    The defaults are our own rule; `clipguide.guidance.presets` has the published ones.

    Attributes:
        strength: 0 or more; 0 is bit-exactly the unguided image. With "rms" the root mean square
            of the displacement of x0 in units of sqrt(C_t)·rms(x0); with "raw" the factor of the
            reward's gradient; with "cfg" a fraction of classifier-free guidance's displacement:
            always so many of the displacements that `normalize` takes for one.
        mode: "x0", the gradient with respect to the predicted clean latent; "xt", the exact
            gradient through denoiser and classifier-free guidance; "noisy", the gradient of a
            reward that reads the noisy latent itself; or "tilt", the gradient with respect to x0,
            by which the noisy latent is moved before the denoiser sees it: the denoiser answers for
            the tilted prior, and no graph goes through it. One file each in
            `clipguide.attach.modes`.
        normalize: "rms" | "raw" | "cfg" | "clamp" (raw, but never more than rms).
        damping: tau > 0, the width of the reward in latent units; strength becomes
            strength / (1 + C_t/tau²). None: not damped. Not in mode "tilt", which has its own, nor
            in mode "noisy", whose reward knows the noise.
        window: (low, high), guided where low <= sigma_bar <= high; see `Window`.
        every: of the steps in the window, guide the first and then every `every`-th; in mode "tilt"
            the steps between keep the slope of the last.
        scale: factor of the gradient by noise level: "posterior" (C_t or sigma²/alpha),
            "constant", "alpha" (alpha), "increase" ((alpha/alpha')², TFG's).
        target: what moves: "output", x0 and its noise, through the model output; "clean", x0 under
            the same noise; "noisy", x_t; "next", the sample after the step. All but "output", and
            scale "increase", need a single-step scheduler.
        smoothing: number n of noisy copies of x0 whose reward is averaged; 0: x0 itself. Costs n
            decodes and n scores.
        smoothing_radius: their standard deviation in units of sqrt(C_t).
        smoothing_average: "mean" of the rewards, or "exp", the log of the mean of exp(reward).
        refine: number of further gradient steps at x0, each from where the one before led; with
            target "output" they move the output, else x0 under the same noise.
        refine_strength: their step size: raw, times the scale where that is not "posterior".
        recurrence: how often each guided step is taken again from a re-noised sample (time travel);
            single-step schedulers only. Each costs a denoiser call and a guided step.
        recurrence_window: interval of sigma_bar in which steps recur.
        reward_width: of mode "tilt" alone: tau > 0, the width of strength·reward in latent units,
            for which the denoiser is asked at a later timestep. None: the reward counts as linear.

    Raises:
        ValueError: a value outside these ranges (NaN included), with what was expected.
    """

    strength: float = 0.1
    mode: str = "x0"
    normalize: str = "rms"
    damping: float | None = None
    window: tuple[float, float] = (0.0, 1.0)
    every: int = 1
    scale: str = "posterior"
    target: str = "output"
    smoothing: int = 0
    smoothing_radius: float = 1.0
    smoothing_average: str = "mean"
    refine: int = 0
    refine_strength: float = 0.0
    recurrence: int = 0
    recurrence_window: tuple[float, float] = (0.0, 1.0)
    reward_width: float | None = None

    def __post_init__(self) -> None:
        for name in ("window", "recurrence_window"):
            pair = tuple(getattr(self, name))  # a list, as JSON gives it
            object.__setattr__(self, name, pair)
            if len(pair) != 2:
                raise ValueError(f"got {name} {pair}, expected a pair (low, high)")
        for name in ("strength", "smoothing_radius", "refine_strength"):
            value: float = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"got {name} {value}, expected a finite number >= 0")
        for name in ("smoothing", "refine", "recurrence"):
            count: int = getattr(self, name)
            if count < 0:
                raise ValueError(f"got {name}={count}, expected 0 or more")
        for name in ("damping", "reward_width"):
            width: float | None = getattr(self, name)
            if width is not None and not (math.isfinite(width) and width > 0):
                raise ValueError(f"got {name} {width}, expected None or a finite number > 0")
        self._check_choices()
        self.steps()
        self.recurring()

    def _check_choices(self) -> None:
        choices = {
            "mode": (*MODES,),
            "normalize": (*NORMALIZE,),
            "scale": (*SCALES,),
            "target": (*TARGETS,),
            "smoothing_average": (*AVERAGES,),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                got: object = getattr(self, name)
                raise ValueError(f"got {name} {got!r}, expected one of {allowed}")
        defaults = {field.name: field.default for field in fields(self)}
        odd = [name for name in MODES[self.mode].without if getattr(self, name) != defaults[name]]
        if odd:
            got_odd = ", ".join(_shown(name, getattr(self, name)) for name in odd)
            expected = ", ".join(_shown(name, defaults[name]) for name in odd)
            raise ValueError(f"got mode {self.mode!r} with {got_odd}, expected {expected}")

    @property
    def single_step(self) -> bool:
        """Whether the settings need the noise level that a step leads to."""
        return self.recurrence > 0 or needs_following(self.scale, self.target)

    def steps(self) -> Window:
        """The window as a checked object."""
        return Window(*self.window, every=self.every)

    def recurring(self) -> Window:
        """The window of recurrence as a checked object."""
        return Window(*self.recurrence_window)


def guidance_for(reward: Reward, **given: Any) -> GuidanceConfig:
    """The settings that `guide` takes for a reward: those given, else the reward's own.

    A reward that reads latents is climbed in mode "noisy", by the strength that its scorer was
    measured best at; one that reads images by the defaults of `GuidanceConfig`.

    Raises:
        ValueError: a setting out of range.

    Example:
        >>> from clipguide import ClipReward, load_scorer
        >>> guidance_for(ClipReward(load_scorer("starter"), "a red star"), every=2).mode
        'x0'
        >>> guidance_for(ClipReward(load_scorer("starter:latent"), "a red star")).mode
        'noisy'
    """
    own: dict[str, Any] = {"mode": "noisy", **reward.guidance} if "latents" in reward.reads else {}
    unknown = own.keys() - {field.name for field in fields(GuidanceConfig)}
    if unknown:
        raise ValueError(
            f"got {sorted(unknown)} among the settings of a scorer's guidance, expected fields of "
            "GuidanceConfig"
        )
    return GuidanceConfig(**merge_guidance(own, given))


def merge_guidance(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` over `own`; a strength is a number of what its `normalize` and mode take for one, so
    it is not kept where another of them is given; 0 is none in any unit."""
    units = ("normalize", "mode")
    moved = any(given.get(name, own.get(name)) != own.get(name) for name in units)
    dropped = "strength" if moved and own.get("strength") else None
    kept = {name: value for name, value in own.items() if name != dropped}
    return {**kept, **given}


def _shown(name: str, value: object) -> str:
    """`target 'next'`, `refine=2`."""
    return f"{name} {value!r}" if isinstance(value, str) else f"{name}={value}"
