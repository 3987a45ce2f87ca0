"""Searches of many prompts: opened together, and searched side by side, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, get_args

from torch import Tensor

from clipguide.attach.decoders import autoencoder
from clipguide.attach.guide import guide
from clipguide.attach.observe import Watch, observe
from clipguide.batching import slices
from clipguide.guidance.config import GuidanceConfig
from clipguide.rewards.base import Reward, as_reward
from clipguide.rewards.per_prompt import PerPrompt
from clipguide.search.auto import Auto
from clipguide.search.best_of import BestOf
from clipguide.search.call import Call
from clipguide.search.candidate import Candidate
from clipguide.search.fk import FeynmanKac
from clipguide.search.joint import Climbed, Joint
from clipguide.search.lockstep import in_lockstep
from clipguide.search.noise import NoiseSearch
from clipguide.search.prune import Prune
from clipguide.search.rollout import Rollout
from clipguide.search.stages import Stage, StageRewards
from clipguide.search.svdd import SoftValueDecoding
from clipguide.search.until import Method, StopWhenVerified

RewardLike: TypeAlias = Reward | Callable[[Tensor], Tensor]
Rewards: TypeAlias = RewardLike | Sequence[RewardLike]
"""One for all prompts, or one for each."""


@dataclass(frozen=True)
class SearchSettings:
    """How searches are run, whatever their prompts.

    Attributes:
        guidance, batch_size, decoder: as of `clipguide.search`.
        watch: as of `clipguide.attach.observe.observe`.
    """

    guidance: GuidanceConfig | None = None
    batch_size: int = 4
    decoder: Any = None
    watch: Watch | None = None


@dataclass(frozen=True)
class GivenRewards:
    """The rewards of a search as they were given; see `clipguide.search`."""

    reward: Rewards
    preview: Rewards | None = None
    final: Rewards | None = None

    def of_all(self, prompts: int) -> StageRewards:
        """Each as one reward of all prompts."""
        preview, final = (
            None if one is None else _of_all(one, prompts) for one in (self.preview, self.final)
        )
        return StageRewards(_of_all(self.reward, prompts), preview, final)


@contextmanager
def open_rollouts(
    calls: Sequence[Call], given: GivenRewards, settings: SearchSettings
) -> Generator[list[Rollout]]:
    """What methods search with, one for each call, which differ in the prompt alone.

    Raises:
        ValueError: rewards of another number of prompts; of another autoencoder's latents.
    """
    rewards = given.of_all(len(calls))
    pipe = calls[0].pipe
    for stage in get_args(Stage):
        rewards.at(stage).check_autoencoder(autoencoder(pipe))
    alone = len(calls) == 1
    guided = rewards.climbed if alone else Climbed(rewards.climbed.for_entries([0]))
    with ExitStack() as stack:
        if settings.guidance is not None:
            guidance = guide(pipe, guided, decoder=settings.decoder, config=settings.guidance)
            stack.enter_context(guidance)
        observer = stack.enter_context(
            observe(pipe, decoder=settings.decoder, watch=settings.watch)
        )
        if alone:
            yield [Rollout(calls[0], rewards, settings.batch_size, observer)]
            return
        joint = Joint(rewards, guided if isinstance(guided, Climbed) else None)
        yield [
            Rollout(call, rewards.for_entries([place]), settings.batch_size, observer, joint, place)
            for place, call in enumerate(calls)
        ]


def search_each(
    rollouts: Sequence[Rollout], methods: Sequence[Method], budget: int, seeds: Sequence[int]
) -> list[list[Candidate]]:
    """Every rollout searched by its method from its seed; side by side where the method can be.

    As many prompts at a time as there are images in a batch: each has at least one in it.
    """
    searches = [
        partial(method, rollout, budget, seed)
        for method, rollout, seed in zip(methods, rollouts, seeds, strict=True)
    ]
    if not all(map(beside_others, methods)) or rollouts[0].size == 1:
        return [search() for search in searches]
    parts = slices(len(searches), rollouts[0].size)
    return [found for part in parts for found in in_lockstep(searches[part])]


def beside_others(method: Method) -> bool:
    """Whether a method's pipeline calls can hold images of other prompts: it asks for all of them
    by `Rollout.together`, and sets no mode of torch's around them."""
    inner = method.method if isinstance(method, StopWhenVerified) else method
    return isinstance(inner, Auto | BestOf | FeynmanKac | NoiseSearch | Prune | SoftValueDecoding)


def _of_all(given: Rewards, prompts: int) -> Reward:
    """A reward of all prompts."""
    several = isinstance(given, Sequence)
    reward = PerPrompt([as_reward(one) for one in given]) if several else as_reward(given)
    # one that holds a prompt may be meant for all of them
    held = reward.entries
    if held != prompts and (several or held != 1) and prompts > 1:
        raise ValueError(f"got rewards of {held} prompts for {prompts}, expected as many")
    return reward.for_entries([0]) if several and prompts == held == 1 else reward
