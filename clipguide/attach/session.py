"""One guided context: what happens inside `scheduler.step`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clipguide.attach.cfg import CfgTap
from clipguide.attach.exact import ExactGraph
from clipguide.attach.noise_levels import one_timestep
from clipguide.attach.place import Place, unknown
from clipguide.attach.preserve import Freeze
from clipguide.attach.recurrence import TimeTravel, following_level, renoised
from clipguide.attach.scheduler_refusals import refuse_arguments
from clipguide.attach.schedulers import SchedulerRule, step_index
from clipguide.attach.tilting import Tilting
from clipguide.attach.update import Edit, Update
from clipguide.attach.view_generators import GeneratorArgument, view_generators
from clipguide.guidance.config import GuidanceConfig
from clipguide.guidance.gradient import Decode, Evaluation
from clipguide.guidance.parameterization import NoiseLevel
from clipguide.guidance.scale import Levels
from clipguide.guidance.trace import Skipped, Trace, TraceStep
from clipguide.rewards.base import Reward

RandomState = dict[str, Tensor]
"""Purpose -> state of the generator that one image's random numbers for it come from."""

_PURPOSES = ("views", "smoothing")
"""What is drawn for at guided steps; recurrence draws too, but a search refuses it."""


class Session:
    """Guides every step of one scheduler that its window covers.

    Args:
        scheduler, rule: the hooked scheduler and its row.
        config: strength, mode, normalisation, damping, window, ...
        reward: images to (B,).
        decode, decoder: latents to images, and the module behind it.
        freeze: over every parameter that a graph may meet.
        generator: for what guidance draws; None for the pipeline call's own.
        graph: present in mode xt.
        cfg: present for normalize="cfg".
    """

    def __init__(
        self,
        scheduler: Any,
        rule: SchedulerRule,
        config: GuidanceConfig,
        reward: Reward,
        decode: Decode,
        decoder: nn.Module | None,
        freeze: Freeze,
        generator: GeneratorArgument = None,
        graph: ExactGraph | None = None,
        cfg: CfgTap | None = None,
    ) -> None:
        self.trace = Trace()
        self.seen: list[float] = []  # sigma_bar of every step, guided or not
        self.inline = False  # the pipeline makes its first sample itself: step tells its generator
        self.paused = False  # a search replays steps that were guided before: count, do not guide
        self._scheduler, self._rule, self._config = scheduler, rule, config
        self._given_generator, self._call_generator = generator, generator
        self._graph = graph
        self._update = Update(
            scheduler, rule, config, reward, decode, decoder, freeze, self._random, graph, cfg
        )
        self._place = Place(scheduler)
        self._window, self._recurring = config.steps(), config.recurring()
        self.tilting = Tilting(scheduler, rule, config) if config.mode == "tilt" else None
        self.travel: TimeTravel | None = None
        if config.recurrence or (self.tilting is not None and self.tilting.curvature):
            shown = None if self.tilting is None else self.tilting.shown
            self.travel = TimeTravel(scheduler, shown)
        self.timesteps_set()
        self._fresh = False  # whether scheduler.timesteps are those of the call that begins

    # ------------------------------------------------------------------ what the pipeline tells us

    def timesteps_set(self) -> None:
        """A run begins: the step counters start again."""
        self._step = 0
        self._covered = 0  # steps so far inside the window
        self._place.restart()
        self._generators: dict[str, list[torch.Generator]] = {}
        if self.tilting is not None:
            self.tilting.restart()
        self._fresh = True
        if self.travel is not None:
            self.travel.plant()

    def call_begins(self, generator: GeneratorArgument) -> None:
        """The pipeline prepares latents with its own `generator` argument."""
        self._call_generator = self._given_generator or generator
        self._generators = {}

    def latents_prepared(self, latents: Tensor, timestep: Any) -> Tensor:
        """The first latents of a call; mode xt starts its graph there if step one is guided."""
        if self._graph is None:
            return latents
        self._graph.begin()
        return self._graph.hand(latents, guided=self._first_is_guided(timestep))

    def sample_seen(self, sample: Tensor) -> None:
        """Mode xt without `prepare_latents`: the denoiser is about to be given a sample."""
        if self._graph is not None and self._fresh:
            self._graph.begin()
            if self._climbs_at(self._scheduler.timesteps[0]):
                self._graph.start(sample)

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
        if self._given_generator is not None:
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
        refuse_arguments(self._scheduler, given)
        if self.tilting is not None:
            given["timestep"] = self.tilting.own_timestep(given["timestep"])
        timestep = one_timestep(given["timestep"])
        levels = self._levels(timestep)
        tilted = self.tilting is not None and self.tilting.pending
        if self.tilting is not None:
            out, x = given["model_output"], given["sample"]
            out, x = self.tilting.taken_back(out, x, levels.now)
            given["model_output"], given["sample"] = out, x
        added: Tensor | None = None
        guided = self._guides(levels.now) and not self.paused
        if guided:
            edit = self._edit(given["model_output"], given["sample"], timestep, levels)
            # else the latent came tilted; the first one never does, nor any before an unknown step
            if not tilted:
                given["model_output"], added = edit.output, edit.added
            if self.tilting is not None and edit.slope is not None:
                self.tilting.slope = edit.slope
        again = guided and self._recurs(levels.now)
        self._count(timestep, levels.now, again=again)
        if self._graph is None:
            result = original(*call.args, **call.kwargs)
        else:
            given["model_output"] = given["model_output"].detach()
            given["sample"] = given["sample"].detach()
            with torch.no_grad():
                result = original(*call.args, **call.kwargs)
        return self._handed(result, added, timestep, levels, again=again)

    def output(self, out: Tensor, x: Tensor, timestep: Any) -> Tensor:
        """What `step` is to be given in the place of the model output `out`; the step is counted.

        Called before the scheduler's own step, by whoever makes it. For settings that act on the
        model output alone: target "output", no recurrence, not mode "tilt".
        """
        timestep = one_timestep(timestep)
        levels = self._levels(timestep)
        if self._guides(levels.now) and not self.paused:
            out = self._edit(out, x, timestep, levels).output
        self._count(timestep, levels.now, again=False)
        return out

    def _edit(self, out: Tensor, x: Tensor, timestep: Any, levels: Levels) -> Edit:
        edit = self._update.edited(out, x, levels)
        self._record(timestep, levels.now, edit.found)
        return edit

    def _handed(
        self, result: Any, added: Tensor | None, timestep: Any, levels: Levels, *, again: bool
    ) -> Any:
        """The scheduler's result with the sample that the denoiser is to see next."""
        before = sample = _sample(result)
        if added is not None:
            sample = (sample + added).to(sample.dtype)
        if again and self.travel is not None:
            noise = self._random("recurrence", sample.shape[0])
            sample = renoised(sample, levels.now, levels.next(), noise)
            self.travel.ask()
        if self.tilting is not None:  # while a search replays, no slope is known until its last
            following = (timestep, levels.now) if again else self._following()
            if following is not None and following[1].alpha > 0 and self._eligible(following[1]):
                sample = self.tilting.handed(sample, *following)
        if self._graph is not None:
            sample = self._graph.hand(sample, guided=again or self._next_guides())
        return result if sample is before else _with_sample(result, sample)

    def _record(self, timestep: Any, level: NoiseLevel, found: Evaluation) -> None:
        norm = found.gradient.flatten(1).norm(dim=1)
        norm = torch.where(found.usable, norm, torch.full_like(norm, torch.nan))
        self.trace.steps.append(
            TraceStep(
                self._step,
                float(timestep),
                level.sigma_bar,
                found.score.float().cpu(),
                norm.float().cpu(),
            )
        )
        self.trace.skipped += [Skipped(self._step, i, who) for i, who in found.culprits.items()]

    def _random(self, purpose: str, batch: int) -> list[torch.Generator]:
        """One generator per image for what guidance draws, apart from the pipeline's own."""
        if len(self._generators.get(purpose, [])) != batch:
            made = view_generators(self._call_generator, batch, purpose)
            self._generators[purpose] = made
        return self._generators[purpose]

    def random_state(self, batch: int) -> list[RandomState]:
        """Where guidance's streams are, one entry per image."""
        streams = {purpose: self._random(purpose, batch) for purpose in _PURPOSES}
        return [{name: made[i].get_state() for name, made in streams.items()} for i in range(batch)]

    def set_random_state(self, states: list[RandomState]) -> None:
        """Guidance's streams go on from where `random_state` found them."""
        for purpose in _PURPOSES:
            made = self._random(purpose, len(states))
            for generator, state in zip(made, states, strict=True):
                generator.set_state(state[purpose])

    # -------------------------------------------------------------------------------- when to guide

    def _level(self, timestep: Any) -> NoiseLevel:
        return self._rule.level(self._scheduler, timestep, step_index(self._scheduler, timestep))

    def _levels(self, timestep: Any) -> Levels:
        """The step's noise level, and where the settings need it the one after."""
        if self.travel is not None:
            self.travel.check()
        now = self._level(timestep)
        single = self._config.single_step
        return Levels(now, following_level(self._scheduler, timestep) if single else None)

    def _recurs(self, level: NoiseLevel) -> bool:
        """Whether the present step is to be taken again after this time."""
        if self.travel is None or self._config.strength == 0 or not self._recurring.covers(level):
            return False
        return self.travel.taken < self._config.recurrence

    def _count(self, timestep: Any, level: NoiseLevel, *, again: bool) -> None:
        self._place.count(timestep)
        self.seen.append(level.sigma_bar)
        self._step += 1
        self._fresh = False
        if not again:
            self._covered += self._eligible(level)
            if self.travel is not None:
                self.travel.taken = 0

    def _eligible(self, level: NoiseLevel) -> bool:
        """In the window, and where the formulas are finite (no sigma = 0, no alpha = 0 in xt)."""
        singular = not self._update.parameterization(level).invertible
        divides = self._config.mode == "xt" or self._config.target == "noisy"
        singular |= divides and level.alpha == 0
        return self._window.covers(level) and level.sigma > 0 and not singular

    def _guides(self, level: NoiseLevel) -> bool:
        return self._eligible(level) and self._window.guides(level, self._covered)

    def _next_guides(self) -> bool:
        """Whether the step after this one is guided: only then does the denoiser need a graph."""
        timestep = self._place.next_timestep()
        if timestep is None:
            return False
        return unknown(timestep) or self._climbs_at(timestep)  # a graph too many is only slower

    def _following(self) -> tuple[Any, NoiseLevel] | None:
        """Timestep and noise level of the step after this one; None where they are not known."""
        timestep = self._place.next_timestep()
        known = timestep is not None and not unknown(timestep)
        return (timestep, self._level(timestep)) if known else None

    def _first_is_guided(self, timestep: Any) -> bool:
        if timestep is not None:  # image-to-image pipelines tell where they begin
            return self._climbs_at(torch.as_tensor(timestep).flatten()[0])
        return not self._fresh or self._climbs_at(self._scheduler.timesteps[0])

    def _climbs_at(self, timestep: Any) -> bool:
        return self._config.strength > 0 and self._guides(self._level(timestep))


def _sample(result: Any) -> Tensor:
    sample: Tensor = result[0] if isinstance(result, tuple) else result.prev_sample
    return sample


def _with_sample(result: Any, sample: Tensor) -> Any:
    if isinstance(result, tuple):
        return (sample, *result[1:])
    result.prev_sample = sample
    return result
