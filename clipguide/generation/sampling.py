"""Prompts and seeds to pictures: plain, guided, or the best of a search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from PIL import Image

from clipguide.attach.guide import guide
from clipguide.attach.observe import Watch, observe
from clipguide.batching import batches
from clipguide.clip.conventions import Score
from clipguide.clip.scorer import Scorer
from clipguide.data.alternatives import alternatives_of
from clipguide.generation.call import call_arguments
from clipguide.generation.models import Models
from clipguide.generation.settings import Settings
from clipguide.guidance.trace import Trace
from clipguide.rewards.base import Reward
from clipguide.rewards.named import load_reward
from clipguide.search import Candidate, Method, ToldFromSwaps, method_with, stopping
from clipguide.search.call import Call
from clipguide.search.many import GivenRewards, SearchSettings, open_rollouts, search_each
from clipguide.search.prune import Prune
from clipguide.seeds import make_generators

Role = Literal["guided", "unguided"]
OnTrace: TypeAlias = Callable[[Trace], None]


@dataclass(frozen=True)
class ImageRequest:
    """One picture that is asked for; for a search, `seed` is the first of the seeds it tries."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Batch:
    """What one call computes: the unit that can be repeated to the bit.

    A picture depends on its own seed alone, but the sums of a batch of another size may round the
    last bit differently. A search gives the `keep` best pictures of each request, one request after
    the other.
    """

    requests: tuple[ImageRequest, ...]
    role: Role
    keep: int = 1


@dataclass(frozen=True)
class Sample:
    """One picture as it was sampled, before anything has looked at it."""

    image: Image.Image
    seed: int  # its own
    seconds: float  # its share of the batch's


@dataclass(frozen=True)
class GeneratedImage:
    """One picture with what is known about how it came about."""

    image: Image.Image
    prompt: str
    seed: int  # its own
    batch: Batch
    index: int  # of this picture in its batch
    seconds: float  # its share of the batch's
    scores: tuple[Score, ...]  # the guiding scorer's, then the judge's


@dataclass(frozen=True)
class ImageGenerator:
    """The models and the settings of a run, ready to make pictures."""

    models: Models
    settings: Settings
    watch: Watch | None = None  # is shown every step; what it raises ends the run
    on_trace: OnTrace | None = None  # is shown what guidance did, after each call without a search

    def generate(
        self, requests: Sequence[ImageRequest], *, keep: int = 1, compare: bool = False
    ) -> Iterator[list[GeneratedImage]]:
        """One list per batch: the pictures asked for; with `compare` each followed by its baseline.

        A baseline is unguided and has the same seed. With a search each request gives its `keep`
        best pictures, and the baseline of the best is what the request's own seed gives without a
        search, of the next best what the next seed gives.
        Cost: that of `guide` and `search`; a baseline costs one unguided picture.
        """
        role: Role = "guided" if self.settings.guided else "unguided"
        # with a picture to start from, each is a call of its own: in a batch diffusers would encode
        # it with the first one's generator
        size = 1 if self.models.start is not None else self.settings.batch_size
        for some in batches(requests, size):
            batch = Batch(tuple(some), role, keep if self.settings.search else 1)
            made = self._scored(batch, self.sample_batch(batch))
            if compare:
                baselines = self._baselines(made)
                yield [picture for pair in zip(made, baselines, strict=True) for picture in pair]
            else:
                yield made

    def sample_batch(self, batch: Batch) -> list[Sample]:
        """The pictures of one batch, timed, without scores."""
        start = time.perf_counter()
        if batch.role == "guided" and self.settings.search is not None:
            chosen = [one for found in self._searched(batch) for one in found]
            images = [candidate.image for candidate in chosen]
            seeds = [candidate.seed for candidate in chosen]
        else:
            seeds = [request.seed for request in batch.requests]
            # generators on the CPU whatever the device: the same seed is the same noise everywhere
            images = self._call(batch, make_generators(seeds))
        seconds = (time.perf_counter() - start) / len(images)
        return [Sample(image, seed, seconds) for image, seed in zip(images, seeds, strict=True)]

    def _searched(self, batch: Batch) -> list[list[Candidate]]:
        """Of each request of a batch its `keep` best, the prompts searched side by side."""
        models, settings = self.models, self.settings
        prompts = [request.prompt for request in batch.requests]
        asked = call_arguments(models.pipe, settings, 1, models.start)
        calls = [Call(models.pipe, prompt, asked) for prompt in prompts]
        reward, methods = self._reward(prompts), [self._method(prompt) for prompt in prompts]
        preview, final = (
            None if loaded is None else loaded(prompts, settings.views)
            for loaded in (models.preview, models.final)
        )
        guidance = settings.guidance if settings.guidance.strength > 0 else None
        how = SearchSettings(guidance, settings.batch_size, models.decoder, self.watch)
        with open_rollouts(calls, GivenRewards(reward, preview, final), how) as rollouts:
            seeds = [request.seed for request in batch.requests]
            found = search_each(rollouts, methods, settings.budget, seeds)
        _check_kept(settings, batch.keep, min(map(len, found)))
        return [candidates[: batch.keep] for candidates in found]

    def _method(self, prompt: str) -> Method:
        """The settings' search, ended at a picture that is told from the prompt's alternatives."""
        method, sure = method_of(self.settings), self.settings.until
        looks = self.models.picture_scorer
        if sure is None or not alternatives_of(prompt, looks.alternatives):
            return method
        return stopping(method, ToldFromSwaps(looks, prompt, sure))

    def _reward(self, prompts: Sequence[str]) -> Reward:
        loaded = self.models.reward
        if loaded is None:
            return reward_of(self.models.scorer, self.settings, prompts)
        return loaded(prompts, self.settings.views)

    def _call(self, batch: Batch, generators: list[torch.Generator]) -> list[Image.Image]:
        """One call of the pipeline, guided or not."""
        models, settings = self.models, self.settings
        prompts = [request.prompt for request in batch.requests]
        arguments = call_arguments(models.pipe, settings, len(prompts), models.start)
        arguments |= {"prompt": prompts, "generator": generators}
        with ExitStack() as stack:
            if batch.role == "guided":
                reward, config = self._reward(prompts), settings.guidance
                trace = stack.enter_context(
                    guide(models.pipe, reward, config=config, decoder=models.decoder)
                )
                if self.on_trace is not None:
                    stack.callback(self.on_trace, trace)
            if self.watch is not None:
                seen = observe(models.pipe, decoder=models.decoder, watch=self.watch)
                stack.enter_context(seen)
            return models.pipe(**arguments).images

    def _scored(self, batch: Batch, samples: Sequence[Sample]) -> list[GeneratedImage]:
        """The samples of one batch with the scores of each scorer."""
        images = [sample.image for sample in samples]
        prompts = [request.prompt for request in batch.requests]
        each = len(images) // len(prompts)  # of a search several pictures to a request
        prompts = [prompt for prompt in prompts for _ in range(each)]
        scorers = [
            one for one in (self.models.picture_scorer, self.models.judge) if one is not None
        ]
        scores = [score(scorer, images, prompts) for scorer in scorers]
        return [
            GeneratedImage(
                one.image,
                prompts[i],
                one.seed,
                batch,
                i,
                one.seconds,
                tuple(column[i] for column in scores),
            )
            for i, one in enumerate(samples)
        ]

    def _baselines(self, made: Sequence[GeneratedImage]) -> list[GeneratedImage]:
        """The unguided pictures of the requests' seeds, in batches of the same size."""
        searched = self.settings.search is not None
        seeds = [_own_seed(picture) if searched else picture.seed for picture in made]
        requests = [
            ImageRequest(picture.prompt, seed) for picture, seed in zip(made, seeds, strict=True)
        ]
        planned = [
            Batch(tuple(some), "unguided")
            for some in batches(requests, 1 if self.models.start else self.settings.batch_size)
        ]
        return [
            baseline
            for batch in planned
            for baseline in self._scored(batch, self.sample_batch(batch))
        ]


def method_of(settings: Settings) -> Method:
    """The search of the settings.

    Raises:
        ValueError: there is none, or none of this name.
    """
    if settings.search == "prune" and settings.pruning is not None:
        return Prune(*settings.pruning)
    return method_with(settings.search or "", settings.search_options)


def _own_seed(picture: GeneratedImage) -> int:
    """What a search's picture of a rank is compared with: that of its request's seed, and on."""
    place, rank = divmod(picture.index, picture.batch.keep)
    return picture.batch.requests[place].seed + rank


def _check_kept(settings: Settings, keep: int, finished: int) -> None:
    if finished < keep:
        raise ValueError(
            f"got {keep} pictures to keep, but search {settings.search!r} with budget "
            f"{settings.budget} finishes {finished}, expected a larger budget"
        )


def score(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[Score]:
    """Score of each image with its prompt, with its convention and the scorer's name."""
    values: list[float] = scorer.score(images, prompts).tolist()
    return [Score(value, scorer.convention, scorer.name) for value in values]


def reward_of(scorer: Scorer, settings: Settings, prompts: Sequence[str]) -> Reward:
    """What the settings climb and search by, for one prompt per picture."""
    return load_reward(settings.reward, scorer)(prompts, settings.views)
