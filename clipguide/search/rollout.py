"""Run one pipeline on one prompt for any seeds: whole, in part, and on from where it stopped.

A path is stopped by leaving the pipeline call at a step, and continued by a new call in which its
recorded latents and model outputs are replayed: the scheduler runs them again (history, noise and
all), the denoiser and guidance do not. So a path can be continued in any batch, and by another
particle, with every scheduler, multistep ones included.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from clipguide.attach.denoisers import before_denoising
from clipguide.attach.layouts import sampling_pipeline
from clipguide.attach.observe import Observer, OnStart, OnStep, Step
from clipguide.attach.replay import ended_early, refuse_replay
from clipguide.attach.timestep_loop import timesteps_chosen
from clipguide.batching import batches
from clipguide.images import to_pil
from clipguide.rewards.base import Reward, check_rewards, terms_that_read
from clipguide.search.call import Call
from clipguide.search.candidate import Candidate, check_score
from clipguide.search.listeners import LastStep, NoiseCheck
from clipguide.search.path import GuidanceState, Path, StepRecord
from clipguide.seeds import derive_generator, make_generators

T = TypeVar("T")
Leveled: TypeAlias = tuple[Tensor, float]
"""Latents (B, C, h, w) in the normal form, and their sigma_bar."""


@dataclass(frozen=True)
class Pictures:
    """What pipeline calls made.

    Attributes:
        images: (N, 3, H, W) in [0, 1].
        latents: the clean latents that they were decoded from, (N, C, h, w); None unless the final
            reward reads latents.
    """

    images: Tensor
    latents: Tensor | None

    @staticmethod
    def joined(parts: Sequence[Pictures]) -> Pictures:
        """Of several calls, in order."""
        latents = [part.latents for part in parts if part.latents is not None]
        images = torch.cat([part.images for part in parts])
        return Pictures(images, torch.cat(latents) if latents else None)


class Stop(Exception):
    """Leaves a pipeline call from a step; caught by `Rollout`."""


@dataclass(frozen=True)
class Rollout:
    """A pipeline, a prompt and a reward, ready to be run.

    Attributes:
        call: the pipeline call.
        reward: of images, of latents, or of both.
        batch_size: most images per pipeline call; one where `call.alone`.
        observer: from `attach.observe`.
        final: the reward of finished pictures; None: `reward`.
    """

    call: Call
    reward: Reward
    batch_size: int
    observer: Observer
    final: Reward | None = None

    @property
    def last_reward(self) -> Reward:
        """That of finished pictures."""
        return self.reward if self.final is None else self.final

    @property
    def size(self) -> int:
        """Images per pipeline call, at most."""
        return 1 if self.call.alone else self.batch_size

    # ------------------------------------------------------------------ whole runs

    def pictures(self, seeds: Sequence[int], on_start: OnStart | None = None) -> Pictures:
        """Finished pictures, at least one, in batches of `batch_size`."""
        batches = self.batches(seeds)
        return Pictures.joined(
            [self.run(make_generators(batch), on_start=on_start) for batch in batches]
        )

    def run(
        self,
        generators: list[torch.Generator],
        on_step: OnStep | None = None,
        *,
        on_start: OnStart | None = None,
        replay: int = 0,
        noisy: bool = False,
    ) -> Pictures:
        """One pipeline call; `noisy` demands a scheduler that draws from each image's generator."""
        check = NoiseCheck(generators, on_step) if noisy else on_step
        last = LastStep(check) if "latents" in self.last_reward.reads else None
        with self.observer.watching(last or check, on_start=on_start, replay=replay):
            images = self.call(generators)
        return Pictures(images, None if last is None else last.latents())

    def calls(self) -> int:
        """Denoiser calls of one trajectory, T; found without making one.

        Second-order schedulers make two per timestep, image-to-image only a part of the steps.
        Cost: a pipeline call up to the denoiser (one text encoding).
        """

        pipe = sampling_pipeline(self.call.pipe)
        refuse_replay(pipe)  # before the call that `stop` leaves half-way

        def stop() -> None:
            raise Stop

        chosen: list[int] = []
        counted = timesteps_chosen(pipe, chosen.append)
        with suppress(Stop), counted, before_denoising(pipe, stop):
            self.run(make_generators([0]))
        steps: int | None = getattr(pipe, "_num_timesteps", None)
        if steps is None:  # pipelines that do not say it
            steps = chosen[-1] if chosen else len(pipe.scheduler.timesteps)
        return steps

    # ------------------------------------------------------------------ parts of runs

    def advance(
        self, paths: list[Path], calls: int, *, noisy: bool = False
    ) -> tuple[list[Path], list[float]]:
        """The paths after `calls` denoiser calls in all, and the rewards of their x0 previews.

        All paths are equally long and shorter than `calls`.
        Cost: the missing denoiser calls, one decode and one reward per path.
        """
        advanced: list[Path] = []
        rewards: list[float] = []
        for batch in self.batches(paths):
            recorder = Recorder(self, batch, calls)
            with suppress(Stop):
                self.run(recorder.generators, recorder, replay=recorder.replay, noisy=noisy)
            if not recorder.rewards:
                raise ended_early(self.call.pipe, calls)
            advanced += recorder.paths()
            rewards += recorder.rewards
        return advanced, rewards

    def finish(self, paths: list[Path], *, noisy: bool = False) -> Pictures:
        """The finished pictures of paths that are equally long."""
        done: list[Pictures] = []
        for batch in self.batches(paths):
            recorder = Recorder(self, batch, None)
            done.append(
                self.run(recorder.generators, recorder, replay=recorder.replay, noisy=noisy)
            )
        return Pictures.joined(done)

    def batches(self, items: Sequence[T]) -> list[list[T]]:
        """The items in order, as many at a time as one pipeline call makes."""
        return batches(items, self.size)

    # ------------------------------------------------------------------ rewards

    def preview_rewards(self, step: Step, seeds: Sequence[int]) -> Tensor:
        """Rewards of a step, (B,); sample i's views are drawn from seed i.

        Of images: of x0 decoded. Of latents: the mean of those of x0 and of the noisy latent, which
        tells earlier what the picture will be than either does (figures in the starter's card).
        """
        images = step.images() if "images" in self.reward.reads else None
        latents: list[Leveled] = []
        if "latents" in self.reward.reads:
            latents = [(step.grid(), 0.0), step.noisy_grid()]
        return _rewards(self.reward, images, latents, seeds, f"search, step {step.index}")

    def candidates(self, seeds: Sequence[int], made: Pictures) -> list[Candidate]:
        """Finished pictures with their rewards, in order."""
        scores: list[float] = []
        for rows in self.batches(range(len(seeds))):
            latents = [] if made.latents is None else [(made.latents[rows], 0.0)]
            own = [seeds[i] for i in rows]
            scores += _rewards(
                self.last_reward, made.images[rows], latents, own, "search, final"
            ).tolist()
        return [Candidate(*row) for row in zip(to_pil(made.images), scores, seeds, strict=True)]

    def require_pure_noise(self) -> None:
        """ValueError unless the pipeline starts from noise alone, made by `prepare_latents`."""
        pipe, arguments = sampling_pipeline(self.call.pipe), self.call.arguments
        prepare = getattr(pipe, "prepare_latents", None)
        if prepare is None:
            raise ValueError(f"got {type(pipe).__name__}, expected a pipeline with prepare_latents")
        # of a ControlNet the picture is seen by the network alone
        begun = {"image", "latents"} & inspect.signature(prepare).parameters.keys()
        given = [name for name in sorted(begun) if arguments.get(name) is not None]
        if given:
            raise ValueError(f"got {given[0]}=, expected a pipeline that starts from noise alone")


def _rewards(
    reward: Reward,
    images: Tensor | None,
    latents: Sequence[Leveled],
    seeds: Sequence[int],
    purpose: str,
) -> Tensor:
    """(B,): of the images, plus the mean over what there is of the latents."""
    generators = [derive_generator(g, purpose) for g in make_generators(seeds)]
    parts: list[Tensor] = []
    with torch.no_grad():
        of_latents = terms_that_read(reward, "latents")
        if of_latents is not None and latents:
            each = [of_latents.of_latents(*one, generators=generators) for one in latents]
            parts.append(sum(each[1:], each[0]) / len(each))
        of_images = terms_that_read(reward, "images")
        if of_images is not None and images is not None:
            parts.append(of_images(images, generators=generators))
    checked = [check_rewards(part, len(seeds)) for part in parts]
    rewards = sum(checked[1:], checked[0])
    for value, seed in zip(rewards.tolist(), seeds, strict=True):
        check_score(value, seed)
    return rewards


class Recorder:
    """Replays a batch of paths, then records; stops at the last of `calls` steps, if given."""

    def __init__(self, rollout: Rollout, batch: list[Path], calls: int | None) -> None:
        self.seeds = [path.seed for path in batch]
        self.generators = make_generators([path.origin for path in batch])  # then the paths' own
        self.replay = len(batch[0].steps)
        self.rewards: list[float] = []
        self._rollout, self._batch, self._calls = rollout, batch, calls
        self._steps: list[list[StepRecord]] = []  # B each
        self._guidance = [path.guidance for path in batch]  # B

    def __call__(self, step: Step) -> tuple[Tensor, Tensor] | None:
        if step.index < self.replay:
            return self._replayed(step)
        if self._calls is None:
            return None
        states = [generator.get_state() for generator in self.generators]
        rows = zip(
            step.sample.detach().split(1), step.output.detach().split(1), states, strict=True
        )
        self._steps.append([StepRecord(*row) for row in rows])
        if step.index == self._calls - 1:
            self.rewards = self._rollout.preview_rewards(step, self.seeds).tolist()
            self._guidance = self._states_of_guidance(step)
            raise Stop
        return None

    def _replayed(self, step: Step) -> tuple[Tensor, Tensor]:
        """What each path was given at this step; its generator is where it was then."""
        records = [path.steps[step.index] for path in self._batch]
        for record, generator in zip(records, self.generators, strict=True):
            generator.set_state(record.state)
        if step.index == self.replay - 1:
            self._restore(step)
        samples = torch.cat([record.sample for record in records])
        return samples, torch.cat([record.output for record in records])

    def _restore(self, step: Step) -> None:
        """Guidance goes on from the last replayed step with what it had there."""
        states = [path.guidance for path in self._batch]
        self._rollout.observer.set_random_state([state.random for state in states])
        if step.mode is not None:
            known = [state.memory for state in states if state.memory is not None]
            step.mode.memory = known[0].joined(known) if known else None

    def _states_of_guidance(self, step: Step) -> list[GuidanceState]:
        """Of each path, as they are now."""
        memory = None if step.mode is None else step.mode.memory
        return [
            GuidanceState(random, None if memory is None else memory.rows(slice(i, i + 1)))
            for i, random in enumerate(self._rollout.observer.random_state(len(self.seeds)))
        ]

    def paths(self) -> list[Path]:
        """The batch's paths with what was recorded."""
        return [
            replace(path, steps=(*path.steps, *(row[i] for row in self._steps)), guidance=guidance)
            for i, (path, guidance) in enumerate(zip(self._batch, self._guidance, strict=True))
        ]
