"""What a search asks the pipeline and the rewards for, as values that say what can be shared.

A work is called with the rollouts that its items belong to, which may be of several prompts, and
with the items; it returns a result for each. Works that compare equal may be made in one
(`clipguide.search.lockstep`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from clipguide.attach.observe import OnStart, OnStep
from clipguide.attach.replay import ended_early
from clipguide.batching import slices
from clipguide.images import to_pil
from clipguide.search.candidate import Candidate
from clipguide.search.listeners import LastStep, NoiseCheck
from clipguide.search.path import Path
from clipguide.search.pictures import Pictures
from clipguide.search.recorder import Recorder, Stop
from clipguide.search.rewarding import reward_of, rewards
from clipguide.seeds import make_generators

if TYPE_CHECKING:
    from clipguide.search.rollout import Rollout

Item = TypeVar("Item", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Work(Protocol[Item, Result]):
    """Results of items, one each; `owners` are the rollouts that they belong to."""

    def __call__(self, owners: Sequence[Rollout], items: Sequence[Item], /) -> Sequence[Result]: ...


def run(
    owners: Sequence[Rollout],
    generators: list[torch.Generator],
    on_step: OnStep | None = None,
    *,
    on_start: OnStart | None = None,
    replay: int = 0,
    noisy: bool = False,
) -> Pictures:
    """One pipeline call, an image for each generator.

    Args:
        owners: the rollout of each image.
        generators: one per image.
        on_step, on_start, replay: as of `Observer.watching`.
        noisy: demands a scheduler that draws from each image's generator.
    """
    first = owners[0]
    check = NoiseCheck(generators, on_step) if noisy else on_step
    last = LastStep(check) if "latents" in first.rewards.at("final").reads else None
    if first.joint is not None and first.joint.climbed is not None:
        first.joint.climbed.now = reward_of(owners, "climbed")
    prompts = [owner.call.prompt for owner in owners]
    with first.observer.watching(last or check, on_start=on_start, replay=replay):
        images = first.call(generators, prompts)
    return Pictures(images, None if last is None else last.latents())


@dataclass(frozen=True)
class Fresh:
    """Seeds to finished pictures."""

    def __call__(self, owners: Sequence[Rollout], items: Sequence[int], /) -> list[Pictures]:
        return [
            picture
            for part in slices(len(items), owners[0].size)
            for picture in run(owners[part], make_generators(items[part])).rows()
        ]


@dataclass(frozen=True)
class Advance:
    """Paths of `replay` steps to those of `calls`, and the rewards of their x0 previews."""

    replay: int
    calls: int
    noisy: bool

    def __call__(
        self, owners: Sequence[Rollout], items: Sequence[Path], /
    ) -> list[tuple[Path, float]]:
        found: list[tuple[Path, float]] = []
        for part in slices(len(items), owners[0].size):
            recorder = Recorder(owners[part], [*items[part]], self.calls)
            with suppress(Stop):
                run(
                    owners[part], recorder.generators, recorder,
                    replay=self.replay, noisy=self.noisy,
                )  # fmt: skip
            if not recorder.rewards:
                raise ended_early(owners[0].call.pipe, self.calls)
            found += zip(recorder.paths(), recorder.rewards, strict=True)
        return found


@dataclass(frozen=True)
class Finish:
    """Paths of `replay` steps to finished pictures."""

    replay: int
    noisy: bool

    def __call__(self, owners: Sequence[Rollout], items: Sequence[Path], /) -> list[Pictures]:
        found: list[Pictures] = []
        for part in slices(len(items), owners[0].size):
            recorder = Recorder(owners[part], [*items[part]], None)
            found += run(
                owners[part], recorder.generators, recorder, replay=self.replay, noisy=self.noisy
            ).rows()
        return found


@dataclass(frozen=True)
class Around:
    """(seed, pivot) to finished pictures that begin around the pivot, with the noise they began
    with; a pivot of None is none: the seed's own noise."""

    radius: float

    def __call__(
        self, owners: Sequence[Rollout], items: Sequence[tuple[int, Tensor | None]], /
    ) -> list[tuple[Tensor, Pictures]]:
        found: list[tuple[Tensor, Pictures]] = []
        for part in slices(len(items), owners[0].size):
            noises: list[Tensor] = []
            pivots = [pivot for _, pivot in items[part]]

            def start(
                noise: Tensor,
                pivots: list[Tensor | None] = pivots,
                noises: list[Tensor] = noises,
            ) -> Tensor:  # (B, ...), scaled as the pipeline scales it
                noises[:] = map(self._moved, noise.detach(), pivots)
                return torch.stack(noises)

            made = run(owners[part], make_generators([s for s, _ in items[part]]), on_start=start)
            found += zip(noises, made.rows(), strict=True)
        return found

    def _moved(self, noise: Tensor, pivot: Tensor | None) -> Tensor:
        if pivot is None:
            return noise
        return math.sqrt(1 - self.radius**2) * pivot + self.radius * noise


@dataclass(frozen=True)
class Finished:
    """(seed, finished picture) to candidates."""

    def __call__(
        self, owners: Sequence[Rollout], items: Sequence[tuple[int, Pictures]], /
    ) -> list[Candidate]:
        found: list[Candidate] = []
        for part in slices(len(items), owners[0].size):
            seeds = [seed for seed, _ in items[part]]
            made = Pictures.joined([picture for _, picture in items[part]])
            latents = [] if made.latents is None else [(made.latents, 0.0)]
            reward = reward_of(owners[part], "final")
            scores = rewards(reward, made.images, latents, seeds, "search, final").tolist()
            found += map(Candidate, to_pil(made.images), scores, seeds)
        return found


@dataclass(frozen=True)
class CountCalls:
    """The denoiser calls of a trajectory, which are the same for every prompt."""

    def __call__(self, owners: Sequence[Rollout], items: Sequence[None], /) -> list[int]:
        return [owners[0].count_calls()] * len(items)
