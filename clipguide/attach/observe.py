"""See every step of a pipeline's calls, and change what the scheduler is given: search's way in.

The observer stands between guidance and the scheduler's own step, so it sees the *guided* model
output. It shares the swapped class of `hook`: inside a `guide()` context it wraps guidance's hook.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from clipguide.attach.decoders import find_decoder, upcast
from clipguide.attach.denoisers import bypassed
from clipguide.attach.hook import HOOKS, StepHook, hooked, rehooked
from clipguide.attach.layouts import Prepared, on_grid, sampling_pipeline, scheduler_of
from clipguide.attach.modes import Mode
from clipguide.attach.noise_levels import one_timestep
from clipguide.attach.preparing import first_latents
from clipguide.attach.schedule import Schedule
from clipguide.attach.session import Session
from clipguide.attach.tiny_decoders import named_decoder
from clipguide.attach.unsupported import Unsupported
from clipguide.attach.view_generators import RandomState
from clipguide.clip.inference_mode import ordinary_tensors


@dataclass(frozen=True)
class ObservedPipeline:
    """Whose steps are seen.

    Attributes:
        pipe: the pipeline.
        decoder: of previews; None for the pipeline's own.
        mode: of the guidance around it, which may carry something from step to step; None without.
        prepared: how the latents of the call lie; None until they have been made.
    """

    pipe: Any
    decoder: Any = None
    mode: Mode | None = None
    prepared: Prepared | None = None

    def images(self, x0: Tensor) -> Tensor:
        """x0 decoded, (B, 3, H, W) in [0, 1], no gradient. One decode per image."""
        # not in inference mode: weights cast for the decode are to be usable for guidance later
        with ordinary_tensors(), self.decoded(x0) as images:
            return images

    @contextmanager
    def decoded(self, x0: Tensor) -> Generator[Tensor]:
        """The same with a gradient where gradients are on, to be taken before the context is left:
        a float16 autoencoder is float32 until then."""
        decode, module = find_decoder(self.pipe, self.decoder, self.prepared)
        with upcast(module):
            yield decode(x0)

    def grid(self, x0: Tensor) -> Tensor:
        """x0 unpacked, (B, C, h, w)."""
        return on_grid(self.pipe, self.prepared or Prepared(), x0)


@dataclass(frozen=True)
class Step:
    """One call of `scheduler.step`, before it is made.

    Attributes:
        index: its number within the pipeline call, from 0.
        timestep: as the pipeline gave it.
        sample: the noisy latent, (B, ...).
        output: the model output after classifier-free guidance and CLIP guidance, (B, ...).
        observed: the pipeline that makes it.
        unguided: the model output before CLIP guidance; None for a step that is not guided.
    """

    index: int
    timestep: Any
    sample: Tensor
    output: Tensor
    observed: ObservedPipeline
    unguided: Tensor | None = None

    @property
    def scheduler(self) -> Any:
        """Whose step it is."""
        return self.observed.pipe.scheduler

    @property
    def mode(self) -> Mode | None:
        """Of the guidance around it."""
        return self.observed.mode

    def x0(self) -> Tensor:
        """The clean latent that the model output stands for, float32, (B, ...).

        Raises NotImplementedError for a scheduler without a verified rule.
        """
        return self._x0_of(self.output)

    def unguided_x0(self) -> Tensor | None:
        """What `x0` would be without CLIP guidance at this step; None where it is not guided."""
        return None if self.unguided is None else self._x0_of(self.unguided)

    def _x0_of(self, output: Tensor) -> Tensor:
        schedule = Schedule(self.scheduler)
        form = schedule.form(schedule.level(one_timestep(self.timestep)))
        if output.shape[1] == 2 * self.sample.shape[1]:  # the second half is the learned variance
            output = output.chunk(2, dim=1)[0]
        return schedule.finished(form.x0(self.sample, output))

    def images(self) -> Tensor:
        """The preview: x0 decoded, (B, 3, H, W) in [0, 1], no gradient. One decode per image."""
        return self.observed.images(self.x0())

    def grid(self) -> Tensor:
        """x0 unpacked, (B, C, h, w), as a reward of latents reads it at noise level 0."""
        return self.observed.grid(self.x0())

    def noisy_grid(self) -> tuple[Tensor, float]:
        """The noisy latent unpacked, (B, C, h, w) in the normal form x/√(α²+σ²), and sigma_bar."""
        level = Schedule(self.scheduler).level(one_timestep(self.timestep))
        return self.observed.grid(self.sample.float() / level.radius), level.sigma_bar

    def select(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The (sample, output) with which row j goes on from row `rows[j]`; (B,) indices.

        What the scheduler remembers of earlier steps of each sample (multistep solvers' model
        outputs, SASolver's noise) is moved with it, now; and so is what guidance carries from step
        to step.
        """
        if self.mode is not None:
            self.mode.select(rows)
        memory = vars(self.scheduler)
        for name, value in memory.items():
            if isinstance(value, list):
                memory[name] = [self._selected(part, rows) for part in cast("list[Any]", value)]
            else:
                memory[name] = self._selected(value, rows)
        return self.sample[rows], self.output[rows]

    def _selected(self, value: Any, rows: Tensor) -> Any:
        per_sample = isinstance(value, Tensor) and value.shape == self.sample.shape
        return value[rows] if per_sample else value


OnStep = Callable[[Step], tuple[Tensor, Tensor] | None]
"""Returns the (sample, output) to go on with, or None to leave them."""
Watch = Callable[[Step], None]
"""Looks at a step and changes nothing; an exception from it ends the call."""
OnStart = Callable[[Tensor], Tensor]
"""The starting noise, (B, ...), as `prepare_latents` returned it; returns the one to start from."""


class Observer:
    """What `observe` yields; it acts on the pipeline calls made inside `watching`."""

    def __init__(
        self, pipe: Any, inner: StepHook | None, decoder: Any, watch: Watch | None = None
    ) -> None:
        mode = inner.mode if isinstance(inner, Session) else None
        self._watch = watch
        self._inner, self._observed = inner, ObservedPipeline(pipe, decoder, mode, Prepared())
        self._on_step: OnStep | None = None
        self._on_start: OnStart | None = None
        self._replay = 0
        self._index = 0

    @contextmanager
    def watching(
        self, on_step: OnStep | None = None, *, on_start: OnStart | None = None, replay: int = 0
    ) -> Generator[None]:
        """For one pipeline call.

        Args:
            on_step: called with every step before it is made.
            on_start: called with the starting noise.
            replay: for the first `replay` steps neither the denoiser nor guidance runs; `on_step`
                must give what they gave before. The scheduler's own step runs, so its history and
                its noise are those of the replayed steps. What guidance keeps between steps does
                not come of itself: at the last of them `on_step` also has to give back
                `set_random_state` and `mode.memory`.
        """
        self._on_step, self._on_start, self._replay, self._index = on_step, on_start, replay, 0
        try:
            yield
        finally:
            self._on_step, self._on_start, self._replay = None, None, 0

    def random_state(self, batch: int) -> list[RandomState]:
        """What guidance draws from next, one entry per image; empty ones without guidance."""
        inner = self._inner
        return inner.streams.state(batch) if isinstance(inner, Session) else [{}] * batch

    def set_random_state(self, states: list[RandomState]) -> None:
        """Guidance draws on from where `random_state` said it was."""
        if isinstance(self._inner, Session):
            self._inner.streams.set_state(states)

    @property
    def guided(self) -> bool:
        """Whether guidance is around it."""
        return self._observed.mode is not None

    def replaying(self) -> bool:
        """Whether the step to come is one that is replayed."""
        return self._index < self._replay

    def timesteps_set(self) -> None:
        """A new run begins."""
        if self._inner is not None:
            self._inner.timesteps_set()

    def step(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Stands in for `scheduler.step`; see `hook.StepHook`."""

        @functools.wraps(original)
        def observed(*args: Any, **kwargs: Any) -> Any:
            return self._show(original, args, kwargs)

        if self._inner is None:
            result = observed(*args, **kwargs)
        else:
            if isinstance(self._inner, Session):
                self._inner.paused = self.replaying()
            result = self._inner.step(observed, args, kwargs)
        self._index += 1
        return result

    def _show(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        call = inspect.signature(original).bind(*args, **kwargs)
        given = call.arguments
        timestep, sample, output = (given[n] for n in ("timestep", "sample", "model_output"))
        unguided = self._inner.unguided if isinstance(self._inner, Session) else None
        step = Step(self._index, timestep, sample, output, self._observed, unguided)
        if self._watch is not None and not self.replaying():
            self._watch(step)
        changed = None if self._on_step is None else self._on_step(step)
        if changed is not None:
            given["sample"], given["model_output"] = changed
        return original(*call.args, **call.kwargs)

    def start(self, noise: Tensor, prepared: Prepared) -> Tensor:
        """What the pipeline starts from."""
        self._observed = replace(self._observed, prepared=prepared)
        if self._on_start is None:
            return noise
        changed = self._on_start(noise.detach()).to(noise.dtype)
        return changed if changed.requires_grad else changed.requires_grad_(noise.requires_grad)


@contextmanager
def observe(pipe: Any, *, decoder: Any = None, watch: Watch | None = None) -> Generator[Observer]:
    """Watches the pipeline's calls; enter it inside `guide()`, if both are wanted.

    Args:
        pipe: any pipeline whose scheduler has a verified rule (for previews; observing alone works
            with every scheduler).
        decoder: for previews, as in `guide`.
        watch: shown every step of every call, replayed ones excepted, before `watching`'s own.

    Everything is restored on exit. Cost: none but what the hooks ask for.
    """
    pipe = sampling_pipeline(pipe)
    scheduler = scheduler_of(pipe)
    if not hasattr(scheduler, "step"):
        raise Unsupported(
            f"{type(scheduler).__name__} of {type(pipe).__name__} has no method step, at which a "
            "search looks"
        )
    inner = HOOKS.get(scheduler)
    if isinstance(inner, Session):
        inner.refuse_search()
    observer = Observer(pipe, inner, named_decoder(pipe, decoder)[0], watch)
    wrap = hooked if inner is None else rehooked
    with ExitStack() as stack:
        stack.enter_context(wrap(scheduler, observer))
        stack.enter_context(bypassed(pipe, observer.replaying))
        stack.enter_context(first_latents(pipe, observer.start))
        yield observer
