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
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from clipguide.attach.denoisers import before_denoising
from clipguide.attach.layouts import sampling_pipeline
from clipguide.attach.observe import Observer, OnStart, OnStep, Step
from clipguide.attach.replay import refuse_replay
from clipguide.attach.timestep_loop import timesteps_chosen
from clipguide.batching import batches
from clipguide.search import works
from clipguide.search.call import Call
from clipguide.search.candidate import Candidate
from clipguide.search.joint import Joint
from clipguide.search.lockstep import together
from clipguide.search.path import Path
from clipguide.search.pictures import Pictures
from clipguide.search.recorder import Stop
from clipguide.search.rewarding import preview_rewards
from clipguide.search.stages import StageRewards
from clipguide.search.works import Work
from clipguide.seeds import make_generators

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Rollout:
    """A pipeline, a prompt and a reward, ready to be run.

    Attributes:
        call: the pipeline call.
        rewards: by which it is searched.
        batch_size: most images per pipeline call; one where `call.alone`.
        observer: from `attach.observe`.
        joint: what it shares with other prompts' rollouts; None: alone.
        place: of its prompt among theirs.
    """

    call: Call
    rewards: StageRewards
    batch_size: int
    observer: Observer
    joint: Joint | None = None
    place: int = 0

    @property
    def size(self) -> int:
        """Images per pipeline call, at most."""
        return 1 if self.call.alone else self.batch_size

    def together(self, work: Work[T, R], items: Sequence[T]) -> list[R]:
        """Results of a work, one for each item; where several prompts are searched side by side,
        its batches hold items of others too."""
        return [*together(work, [self] * len(items), items)]

    # ------------------------------------------------------------------ whole runs

    def pictures(self, seeds: Sequence[int]) -> Pictures:
        """Finished pictures, at least one, in batches of `batch_size`."""
        return Pictures.joined(self.together(works.Fresh(), seeds))

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
        owners = [self] * len(generators)
        return works.run(owners, generators, on_step, on_start=on_start, replay=replay, noisy=noisy)

    def calls(self) -> int:
        """Denoiser calls of one trajectory, T; found without making one.

        Second-order schedulers make two per timestep, image-to-image only a part of the steps.
        Cost: a pipeline call up to the denoiser (one text encoding).
        """
        return self.together(works.CountCalls(), [None])[0]

    def count_calls(self) -> int:
        """`calls`, found now."""
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
        work = works.Advance(len(paths[0].steps), calls, noisy)
        advanced = self.together(work, paths)
        return [path for path, _ in advanced], [reward for _, reward in advanced]

    def finish(self, paths: list[Path], *, noisy: bool = False) -> Pictures:
        """The finished pictures of paths that are equally long."""
        return Pictures.joined(self.together(works.Finish(len(paths[0].steps), noisy), paths))

    def batches(self, items: Sequence[T]) -> list[list[T]]:
        """The items in order, as many at a time as one pipeline call makes."""
        return batches(items, self.size)

    # ------------------------------------------------------------------ rewards

    def preview_rewards(self, step: Step, seeds: Sequence[int]) -> Tensor:
        """Rewards of a step, (B,); see `clipguide.search.rewarding.preview_rewards`."""
        return preview_rewards([self] * len(seeds), step, seeds)

    def candidates(self, seeds: Sequence[int], made: Pictures) -> list[Candidate]:
        """Finished pictures with their rewards, in order."""
        return self.together(works.Finished(), [*zip(seeds, made.rows(), strict=True)])

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
