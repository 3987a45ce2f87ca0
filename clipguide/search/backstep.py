"""Back-steps: a finished picture is noised again in part, and denoised another way from there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.attach.noise_levels import one_timestep
from clipguide.attach.observe import Step
from clipguide.attach.schedule import Schedule
from clipguide.guidance.parameterization import NoiseLevel, Parameterization
from clipguide.search.candidate import Candidate, best_first
from clipguide.search.numbers import check_numbers
from clipguide.search.path import Path, StepRecord
from clipguide.search.rollout import Rollout
from clipguide.seeds import derive_generator, image_seeds, make_generators


@dataclass(frozen=True)
class BackStep:
    """Pictures, each tried again from part of the way back before the next is begun.

    A picture is finished; then, up to `tries` times, the best of it so far goes back: its clean
    latent is noised afresh to the level that is `back` of the denoiser calls before the end, and
    denoised from there. What the picture is at large stays, what is decided late is decided anew,
    for `back` of the cost. Best with `search(..., until=)`, which is looked at after each picture.

    Attributes:
        back: share of the denoiser calls that is made again, in (0, 1).
        tries: back-steps from each picture, 1 or more.

    Cost: within `budget` trajectories: 1 for a new picture, `back` for a back-step; a decode and a
    reward for each. Returns all of them, best first.
    Raises: ValueError for a setting out of range; NotImplementedError for a scheduler without a
    verified rule, or a denoiser that also gives a variance.
    Source: the back-steps of 2505.23614 (depth-first search over noise levels) with the check of
    2512.08985.
    """

    back: float = 0.5
    tries: int = 2

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 < self.back < 1:
            raise ValueError(f"got back={self.back}, expected a share of the steps in (0, 1)")
        if self.tries < 1:
            raise ValueError(f"got tries={self.tries}, expected 1 or more")

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        return best_first(one for found in self.rounds(rollout, budget, seed) for one in found)

    def rounds(self, rollout: Rollout, budget: int, seed: int) -> Iterator[list[Candidate]]:
        """Picture after picture."""
        total = rollout.calls()
        again = min(max(1, round(self.back * total)), total - 1)
        left = budget * total
        seeds = iter(image_seeds(seed, self.seeds(budget)))
        while left >= total:
            left -= total
            best, line = _new(rollout, next(seeds))
            yield [best]
            for _ in range(self.tries):
                if left < again or again < 1:
                    break
                left -= again
                found, clean = _again(rollout, line, total - again, next(seeds))
                yield [found]
                if found.score > best.score:
                    best, line = found, line.towards(clean)

    def seeds(self, budget: int) -> int:
        """As many seeds as a search may draw from, whatever the steps."""
        return budget * (1 + self.tries)


@dataclass(frozen=True)
class StraightLine:
    """How a clean latent would have come about, if it had been foreseen from the first step on.

    Attributes:
        clean: x0 of a finished picture, (1, ...).
        levels: noise level of each step's sample.
        forms: x0 of each step's model output.
    """

    clean: Tensor
    levels: tuple[NoiseLevel, ...]
    forms: tuple[Parameterization, ...]

    def towards(self, clean: Tensor) -> StraightLine:
        """The same steps to another clean latent."""
        return StraightLine(clean, self.levels, self.forms)

    def path(self, calls: int, seed: int) -> Path:
        """The first `calls` steps on the way: samples alpha·x0 + sigma·eps of one fresh noise, and
        outputs that say x0. A scheduler that replays them is then at the same point of the line,
        with a history that agrees, whatever its order; a stochastic one with noise of its own."""
        (generator,) = make_generators([seed])
        fresh = derive_generator(generator, "back-step")
        noise = torch.randn(self.clean.shape, generator=fresh).to(self.clean)
        state = generator.get_state()
        steps: list[StepRecord] = []
        for level, form in zip(self.levels[:calls], self.forms, strict=False):
            sample = level.alpha * self.clean + level.sigma * noise
            output = (self.clean - form.a * sample) / form.b
            steps.append(StepRecord(sample, output, state))
        return Path(seed, tuple(steps))


class _Watch:
    """Remembers the levels of a run's steps, and its clean latent."""

    def __init__(self) -> None:
        self.levels: list[NoiseLevel] = []
        self.forms: list[Parameterization] = []
        self.clean: Tensor | None = None

    def __call__(self, step: Step) -> None:
        if step.output.shape != step.sample.shape:
            raise NotImplementedError(
                f"got a model output of {tuple(step.output.shape)} for latents of "
                f"{tuple(step.sample.shape)}: a back-step has no variance to give back"
            )
        schedule = Schedule(step.scheduler)
        level = schedule.level(one_timestep(step.timestep))
        form = schedule.form(level)
        self.levels.append(level)
        self.forms.append(form)
        self.clean = form.x0(step.sample, step.output).detach().to(step.sample.dtype)

    def line(self) -> StraightLine:
        """After the run."""
        if self.clean is None:
            raise RuntimeError("no step was seen: the pipeline did not call its scheduler")
        return StraightLine(self.clean, tuple(self.levels), tuple(self.forms))


def _new(rollout: Rollout, seed: int) -> tuple[Candidate, StraightLine]:
    """A picture of its own seed."""
    watch = _Watch()
    made = rollout.run(make_generators([seed]), watch)
    return rollout.candidates([seed], made)[0], watch.line()


def _again(rollout: Rollout, line: StraightLine, calls: int, seed: int) -> tuple[Candidate, Tensor]:
    """A picture that goes on from `calls` steps along the line, and its clean latent."""
    path, watch = line.path(calls, seed), _Watch()
    (generator,) = make_generators([seed])

    def replayed(step: Step) -> tuple[Tensor, Tensor] | None:
        if step.index < calls:
            record = path.steps[step.index]
            generator.set_state(record.state)
            return record.sample, record.output
        watch(step)
        return None

    made = rollout.run([generator], replayed, replay=calls)
    return rollout.candidates([seed], made)[0], watch.line().clean
