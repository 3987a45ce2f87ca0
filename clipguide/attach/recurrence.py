"""Time travel: a step is taken again from its own result, noised back to where it began.

RePaint (Lugmayr et al. 2022, Algorithm 1, https://arxiv.org/abs/2201.09865) brought it in; guidance
uses it to repair what it displaced (FreeDoM, Universal Guidance, TFG). The pipeline's own loop runs
the denoiser again: its `timesteps` yield a timestep once more when the step before asked for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.noise_levels import from_flow_sigmas, from_k_sigmas
from clipguide.attach.schedulers import step_index
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.smoothing import noise_like


def _ddim(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    previous = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    last = scheduler.final_alpha_cumprod
    return _preserving(scheduler.alphas_cumprod[previous] if previous >= 0 else last)


def _ddpm(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    previous = int(scheduler.previous_timestep(timestep))
    return _preserving(scheduler.alphas_cumprod[previous] if previous >= 0 else 1.0)


def _preserving(alpha_bar: Any) -> NoiseLevel:
    return NoiseLevel(math.sqrt(float(alpha_bar)), math.sqrt(1 - float(alpha_bar)))


def _k_diffusion(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    return from_k_sigmas(scheduler, timestep, index + 1)


def _flow(scheduler: Any, timestep: Any, index: Any) -> NoiseLevel:
    return from_flow_sigmas(scheduler, timestep, index + 1)


# single-step schedulers: class name -> the noise level of what `step` returns
SINGLE_STEP: dict[str, Callable[[Any, Any, Any], NoiseLevel]] = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "EulerDiscreteScheduler": _k_diffusion,
    "EulerAncestralDiscreteScheduler": _k_diffusion,
    "FlowMatchEulerDiscreteScheduler": _flow,
}

# arguments of pipelines that count their steps to know what to do in each
_COUNTING = ("control_guidance_start", "mask_image")


def refuse_multistep(scheduler: Any, config: GuidanceConfig) -> None:
    """Raises where settings need a single-step scheduler and have another.

    Raises:
        ValueError: a multistep or second-order scheduler, which remembers what is to be undone.
    """
    if config.single_step and type(scheduler).__name__ not in SINGLE_STEP:
        raise ValueError(
            f"got {type(scheduler).__name__} with recurrence={config.recurrence}, target "
            f"{config.target!r} and scale {config.scale!r}, expected a single-step scheduler "
            f"({', '.join(SINGLE_STEP)}): it carries earlier steps along"
        )


def refuse_counting(arguments: Sequence[str], name: str) -> None:
    """Raises for pipelines that look up what to do by the number of the step.

    Raises:
        ValueError: recurrence would shift their numbers.
    """
    counted = [argument for argument in _COUNTING if argument in arguments]
    if counted:
        raise ValueError(
            f"got recurrence with {name}, which counts its steps ({', '.join(counted)}); expected "
            "recurrence=0"
        )


def following_level(scheduler: Any, timestep: Any) -> NoiseLevel:
    """The noise level of what the scheduler's `step` will return, before it is called."""
    index = step_index(scheduler, timestep)
    return SINGLE_STEP[type(scheduler).__name__](scheduler, timestep, index)


def renoised(
    x: Tensor, now: NoiseLevel, then: NoiseLevel, generators: Sequence[torch.Generator]
) -> Tensor:
    """x at level `then`, noised back to `now`: the forward process between the two.

    x_t = (alpha/alpha')·x_{t-1} + sqrt(sigma² - (alpha/alpha')²·sigma'²)·eps; in variance-
    preserving space the time travel of FreeDoM's Algorithm 2 (https://arxiv.org/abs/2303.09833).
    """
    ratio = now.alpha / then.alpha
    spread = math.sqrt(max(0.0, now.sigma**2 - (ratio * then.sigma) ** 2))
    return ratio * x + spread * noise_like(x, generators)


Shown = Callable[[Tensor], Tensor]
"""A timestep of the scheduler's -> the one that the loop is to give the denoiser."""


class TimeTravel:
    """Lets the loop over `scheduler.timesteps` take a step again, or show another timestep.

    Args:
        scheduler: whose timesteps they are.
        shown: asked for each timestep when its turn has come; None leaves them as they are.
    """

    def __init__(self, scheduler: Any, shown: Shown | None = None) -> None:
        self._scheduler, self._shown = scheduler, shown or _itself
        self._asked = False
        self.taken = 0  # how often the present step has been taken again

    def plant(self) -> None:
        """The scheduler's timesteps can be repeated from here on."""
        timesteps: Tensor | None = self._scheduler.timesteps
        self._asked, self.taken = False, 0
        if timesteps is not None:
            self._scheduler.timesteps = _repeating(_plain(timesteps), self._answer, self._shown)

    def uproot(self) -> None:
        """The scheduler's timesteps are an ordinary tensor again."""
        self._scheduler.timesteps = _plain(self._scheduler.timesteps)

    def ask(self) -> None:
        """The step just taken is to be taken again; the scheduler is wound back."""
        self._asked = True
        self.taken += 1
        if getattr(self._scheduler, "step_index", None) is not None:
            self._scheduler._step_index -= 1

    def check(self) -> None:
        """Raises if the loop went on instead.

        Raises:
            RuntimeError: a loop that does not iterate over the scheduler's timesteps.
        """
        if self._asked:
            raise RuntimeError(
                "recurrence: the loop did not take the step again; expected one that iterates "
                "over scheduler.timesteps as set_timesteps leaves them"
            )

    def _answer(self) -> bool:
        asked, self._asked = self._asked, False
        return asked


def _itself(timestep: Tensor) -> Tensor:
    return timestep


def _plain(timesteps: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():  # pyright: ignore[reportPrivateUsage]
        plain: Tensor = timesteps.as_subclass(Tensor)
    return plain


def _repeating(timesteps: Tensor, again: Callable[[], bool], shown: Shown) -> Tensor:
    """The same numbers, as a tensor whose iteration yields `shown(value)`, again while `again()`.

    So do its slices, which image-to-image loops over; all else that is made of it is plain.
    """

    class Repeating(Tensor):
        __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore

        def __iter__(self) -> Iterator[Tensor]:
            for timestep in _plain(self):
                yield shown(timestep)
                while again():
                    yield shown(timestep)

        def __getitem__(self, index: Any) -> Tensor:
            chosen = _plain(self)[index]
            return _repeating(chosen, again, shown) if isinstance(index, slice) else chosen

    repeating: Tensor = timesteps.as_subclass(Repeating)
    return repeating
