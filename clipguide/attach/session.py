"""One guided context: what happens inside `scheduler.step`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipguide.attach.modes import Edit, NextStep, Objective, StepContext, find_mode
from clipguide.attach.noise_levels import one_timestep
from clipguide.attach.recurrence import Recurrence
from clipguide.attach.schedule import Schedule
from clipguide.attach.scheduler_refusals import refuse_arguments
from clipguide.attach.step_cursor import unknown
from clipguide.attach.timestep_loop import TimestepLoop
from clipguide.attach.unsupported import Unsupported
from clipguide.attach.view_generators import GeneratorArgument, Streams
from clipguide.guidance.gradient import Evaluation
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.trace import Skipped, Trace, TraceStep


class Session:
    """Guides every step of one scheduler that its window covers.

    What is done to a step is the mode's (`attach.modes`); the session knows where the loop is, when
    to guide, and keeps the trace.

    Args:
        schedule: the hooked scheduler in guidance's terms.
        objective: what to guide by.
        generator: for what guidance draws; None for the pipeline call's own.
    """

    def __init__(
        self, schedule: Schedule, objective: Objective, generator: GeneratorArgument = None
    ) -> None:
        self.trace = Trace()
        self.seen: list[float] = []  # sigma_bar of every step, guided or not
        self.undefined: list[float] = []  # of those in the window where the mode has no formula
        self.inline = False  # no `prepare_latents` in the pipeline: `step` has its generator
        self.paused = False  # a search replays steps that were guided before: count, do not guide
        self.unguided: Tensor | None = None  # the model output that a guided step had before
        self.streams = Streams(generator)
        self._schedule, self._config = schedule, objective.config
        self._window = self._config.steps()
        self.mode = find_mode(self._config.mode)(objective, schedule)
        self.loop: TimestepLoop | None = None
        if self._config.recurrence or self.mode.shows_timesteps:
            self.loop = TimestepLoop(schedule.scheduler, self.mode.shown)
        self._recurrence = None if self.loop is None else Recurrence(self.loop, self._config)
        self.timesteps_set()
        self._fresh = False  # whether scheduler.timesteps are those of the call that begins

    # ------------------------------------------------------------------ what the pipeline tells us

    def timesteps_set(self) -> None:
        """A run begins: the step counters start again."""
        self._step = 0
        self._covered = 0  # steps so far inside the window
        self._schedule.cursor.restart()
        self.streams.restart()
        self.mode.restart()
        self._fresh = True
        if self.loop is not None:
            self.loop.install()
        if self._recurrence is not None:
            self._recurrence.restart()

    def call_begins(self, generator: GeneratorArgument) -> None:
        """The pipeline prepares latents with its own `generator` argument."""
        self.streams.call_begins(generator)

    def latents_prepared(self, latents: Tensor, timestep: Any) -> Tensor:
        """The first latents of a call, as the denoiser is to be given them."""
        return self.mode.first(latents, guided=self._first_is_guided(timestep))

    def denoiser_called(self, sample: Tensor) -> None:
        """Without `prepare_latents`: the denoiser is about to be given a sample."""
        if self._fresh:
            guided = self._climbs_at(self._schedule.scheduler.timesteps[0])
            self.mode.denoiser_called(sample, guided=guided)

    def refuse_search(self) -> None:
        """Raises where steps cannot be replayed, or a candidate would not be its seed's picture.

        Raises:
            ValueError: recurrence: a search pays for, counts and replays one denoiser call per
                step, and steps taken again would have to be asked for again as they were; a
                generator given to `guide`, whose numbers go by the place in the batch.
        """
        if self._config.recurrence:
            raise ValueError(
                f"got a search with guidance of recurrence={self._config.recurrence}, expected "
                "recurrence=0: a search counts and replays each step once"
            )
        if self.streams.given is not None:
            raise ValueError(
                "got a search inside guide(generator=...), expected none: a candidate's random "
                "numbers come from its own seed"
            )

    # ------------------------------------------------------------------------------------ the step

    def step(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """The scheduler's own step, on a model output whose x0 climbed the reward."""
        call = inspect.signature(original).bind(*args, **kwargs)
        given = call.arguments
        if self.inline and self._fresh:
            self.call_begins(given.get("generator"))
        refuse_arguments(self._schedule.scheduler, given)
        given["timestep"] = self.mode.own_timestep(given["timestep"])
        step = self._context(given["timestep"])
        level = step.levels.now
        given["model_output"], given["sample"] = self.mode.restored(
            given["model_output"], given["sample"], level
        )
        edit = self._edited(given["model_output"], given["sample"], step)
        self.unguided = None
        if edit is not None:
            self.unguided = given["model_output"].detach()
            given["model_output"] = edit.output
        again = edit is not None and self._recurs(level)
        self._count(step, again=again)
        result = self.mode.stepped(original, call)
        return self._handed(result, edit, step, again=again)

    def output(self, out: Tensor, x: Tensor, timestep: Any) -> Tensor:
        """What `step` is to be given in the place of the model output `out`; the step is counted.

        Called before the scheduler's own step, by whoever makes it. For settings that act on the
        model output alone: target "output", no recurrence, a mode without `acts_after_step`.
        """
        step = self._context(timestep)
        edit = self._edited(out, x, step)
        self._count(step, again=False)
        return out if edit is None else edit.output

    def _context(self, timestep: Any) -> StepContext:
        if self.loop is not None:
            self.loop.check()
        timestep = one_timestep(timestep)
        levels = self._schedule.levels(timestep, following=self._config.single_step)
        return StepContext(timestep, levels, self._schedule.form(levels.now), self.streams.of)

    def _edited(self, out: Tensor, x: Tensor, step: StepContext) -> Edit | None:
        """What becomes of a step; None where it is not guided.

        Raises:
            NotImplementedError: an output of a shape that no prediction type has.
        """
        if self.paused or not self._guides(step.levels.now):
            return None
        if out.shape not in (x.shape, (x.shape[0], 2 * x.shape[1], *x.shape[2:])):
            raise Unsupported(
                f"{type(self._schedule.scheduler).__name__} was given a model output of shape "
                f"{tuple(out.shape)} for a sample of {tuple(x.shape)}; no verified rule for that "
                "layout (see clipguide.register_scheduler)"
            )
        edit = self.mode.edit(out, x, step)
        self._record(step, edit.found)
        return edit

    def _handed(self, result: Any, edit: Edit | None, step: StepContext, *, again: bool) -> Any:
        """The scheduler's result with the sample that the denoiser is to see next."""
        before = sample = _sample(result)
        if edit is not None and edit.added is not None:
            sample = (sample + edit.added).to(sample.dtype)
        if again and self._recurrence is not None:
            noise = self.streams.of("recurrence", sample.shape[0])
            sample = self._recurrence.again(sample, step.levels, noise)
        if self.mode.acts_after_step:
            sample = self.mode.handed(sample, self._following(step, again=again))
        return result if sample is before else _with_sample(result, sample)

    def _record(self, step: StepContext, found: Evaluation) -> None:
        norm = found.gradient.flatten(1).norm(dim=1)
        norm = torch.where(found.usable, norm, torch.full_like(norm, torch.nan))
        self.trace.steps.append(
            TraceStep(
                self._step,
                float(step.timestep),
                step.levels.now.sigma_bar,
                found.score.float().cpu(),
                norm.float().cpu(),
            )
        )
        sources = found.nonfinite_sources.items()
        self.trace.skipped += [Skipped(self._step, i, source) for i, source in sources]

    # -------------------------------------------------------------------------------- when to guide

    def _recurs(self, level: NoiseLevel) -> bool:
        return self._recurrence is not None and self._recurrence.wanted(level)

    def _count(self, step: StepContext, *, again: bool) -> None:
        self._schedule.cursor.count(step.timestep)
        level = step.levels.now
        self.seen.append(level.sigma_bar)
        if self._window.covers(level) and not self.mode.defined_at(level):
            self.undefined.append(level.sigma_bar)
        self._step += 1
        self._fresh = False
        if not again:
            self._covered += self._eligible(step.levels.now)
            if self._recurrence is not None:
                self._recurrence.restart()

    def _eligible(self, level: NoiseLevel) -> bool:
        """In the window, and where the formulas are finite (no sigma = 0, no alpha = 0 in xt)."""
        return self._window.covers(level) and self.mode.defined_at(level)

    def _guides(self, level: NoiseLevel) -> bool:
        return self._eligible(level) and self._window.guides(level, self._covered)

    def _following(self, step: StepContext, *, again: bool) -> NextStep:
        """The step after this one: the same once more, or what the scheduler has next."""
        if again:
            level = step.levels.now
            return NextStep(step.timestep, level, self._eligible(level), True)
        timestep = self._schedule.cursor.next_timestep()
        if timestep is None:
            return NextStep(None, None, False, False)
        if unknown(timestep):
            return NextStep(None, None, False, True)
        level = self._schedule.level(timestep)
        return NextStep(timestep, level, self._eligible(level), self._climbs(level))

    def _first_is_guided(self, timestep: Any) -> bool:
        if timestep is not None:  # image-to-image pipelines tell where they begin
            return self._climbs_at(torch.as_tensor(timestep).flatten()[0])
        return not self._fresh or self._climbs_at(self._schedule.scheduler.timesteps[0])

    def _climbs_at(self, timestep: Any) -> bool:
        return self._climbs(self._schedule.level(timestep))

    def _climbs(self, level: NoiseLevel) -> bool:
        return self._config.strength > 0 and self._guides(level)


def _sample(result: Any) -> Tensor:
    sample: Tensor = result[0] if isinstance(result, tuple) else result.prev_sample
    return sample


def _with_sample(result: Any, sample: Tensor) -> Any:
    if isinstance(result, tuple):
        return (sample, *result[1:])
    result.prev_sample = sample
    return result
