"""Spend more denoiser calls on a prompt and keep the best: eight methods under one function."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar, overload

from clipguide.attach.observe import Watch
from clipguide.guidance.config import GuidanceConfig
from clipguide.search.auto import Auto
from clipguide.search.backstep import BackStep
from clipguide.search.best_of import BestOf
from clipguide.search.call import Call
from clipguide.search.candidate import Candidate
from clipguide.search.fk import FeynmanKac
from clipguide.search.many import (
    GivenRewards,
    RewardLike,
    Rewards,
    SearchSettings,
    open_rollouts,
    search_each,
)
from clipguide.search.noise import NoiseSearch
from clipguide.search.noise_gradient import NoiseGradient
from clipguide.search.prune import Prune
from clipguide.search.rollout import Rollout
from clipguide.search.svdd import SoftValueDecoding
from clipguide.search.until import Method, StopWhenVerified, ToldFromSwaps, Until

__all__ = [
    "METHODS",
    "Auto",
    "BackStep",
    "BestOf",
    "Candidate",
    "FeynmanKac",
    "NoiseGradient",
    "NoiseSearch",
    "Prune",
    "SoftValueDecoding",
    "StopWhenVerified",
    "ToldFromSwaps",
    "find_method",
    "method_with",
    "search",
    "seeds_of",
    "stopping",
]

T = TypeVar("T")

METHODS: dict[str, Method] = {
    "best_of": BestOf(),
    "prune": Prune(),
    "fk": FeynmanKac(),
    "svdd": SoftValueDecoding(),
    "noise": NoiseSearch(),
    "noise_gradient": NoiseGradient(),
    "backstep": BackStep(),
    "auto": Auto(),
}


@overload
def search(
    pipe: Any,
    prompt: str | None,
    reward: RewardLike,
    method: str | Method = "best_of",
    budget: int = 16,
    seed: int = 0,
    *,
    until: Until | None = None,
    guidance: GuidanceConfig | None = None,
    preview: RewardLike | None = None,
    final: RewardLike | None = None,
    batch_size: int = 4,
    decoder: Any = None,
    **pipe_kwargs: Any,
) -> list[Candidate]: ...


@overload
def search(
    pipe: Any,
    prompt: list[str] | tuple[str, ...],
    reward: Rewards,
    method: str | Method = "best_of",
    budget: int = 16,
    seed: int | Sequence[int] = 0,
    *,
    until: Until | Sequence[Until] | None = None,
    guidance: GuidanceConfig | None = None,
    preview: Rewards | None = None,
    final: Rewards | None = None,
    batch_size: int = 4,
    decoder: Any = None,
    **pipe_kwargs: Any,
) -> list[list[Candidate]]: ...


def search(
    pipe: Any,
    prompt: str | list[str] | tuple[str, ...] | None,
    reward: Rewards,
    method: str | Method = "best_of",
    budget: int = 16,
    seed: int | Sequence[int] = 0,
    *,
    until: Until | Sequence[Until] | None = None,
    guidance: GuidanceConfig | None = None,
    preview: Rewards | None = None,
    final: Rewards | None = None,
    batch_size: int = 4,
    decoder: Any = None,
    **pipe_kwargs: Any,
) -> list[Candidate] | list[list[Candidate]]:
    """Images of a prompt, or of each of many, found by `budget` trajectories of it, best first.

    Many prompts are searched side by side, as many at a time as `batch_size`, and a pipeline call
    holds images of several of them ("noise_gradient", "backstep" and methods of your own: one
    prompt after the other).

    Args:
        pipe: a diffusers pipeline; "prune", "fk" and "svdd" look at x0 previews and need a
            scheduler and an autoencoder that guidance knows (`clipguide.register_scheduler`).
        prompt: one text, or a list of them; None for pipelines without one.
        reward: images (B, 3, H, W) in [0, 1] to (B,), higher is better; need not be differentiable
            (unless `guidance` is given). For a list of prompts one that was made for the list
            (`ClipReward(scorer, prompts)`), a list of rewards, or one that holds no prompt.
        method: "best_of" | "prune" | "fk" | "svdd" | "noise" | "noise_gradient" | "backstep"
            | "auto" (by a measured table), or an instance with settings of its
            own: `Prune(at=0.4, keep=0.5)`, `FeynmanKac(temperature=100)`, ...
        budget: denoiser calls, in units of one full trajectory of one image (one call being one
            step of one image, with or without classifier-free guidance). No method exceeds it.
        seed: image i draws from seed + i alone. The same seed gives the same images. For a list
            of prompts a seed for each, or the first prompt's, from which each next one begins
            `seeds_of(method, budget)` further.
        until: stop when verified (`clipguide.search.until.StopWhenVerified`): a reward that is
            enough, or a function of a finished picture that says whether it is right, such as
            `ToldFromSwaps(scorer, prompt)`. Pictures that are right come first. For a list of
            prompts one for all, or a list.
        guidance: gradients as well: every trajectory runs inside `guide(pipe, reward, ...)`.
        preview: another reward, of x0 previews alone, by which "prune", "fk" and "svdd" decide what
            goes on; None: `reward`. It need not be differentiable.
        final: another reward, of the finished pictures alone, by which the candidates are ordered;
            None: `reward`. For a scorer too dear for previews. Both choose among pictures of which
            `reward` is too sure because gradients climbed it.
        batch_size: most images per pipeline call, of whatever prompts (one where the call is given
            a picture or latents: diffusers would encode it with the first image's generator).
            batch_size=1 is exact: a candidate is `pipe(prompt, generator=seed)` to the bit, however
            many prompts. In a larger batch torch sums in another order, which moves latents by
            about 1e-6: unguided, less than 1e-3 of 255 levels in the picture; guided, up to tens
            of levels (strength 0.3), for guided steps magnify any difference as small, also one in
            the starting noise. The best of a search can then be another candidate.
        decoder: for previews and guidance, as in `guide`: an AutoencoderTiny makes both cheap.
        pipe_kwargs: further arguments of the pipeline (num_inference_steps, guidance_scale,
            negative_prompt, eta, height, image, ...).

    Returns:
        "best_of", "fk": `budget` candidates. "prune": those that were finished. "svdd": one per
        `duplicates` trajectories. The others: every image of every round. For a list of prompts
        such a list for each.

    Raises:
        ValueError: a bad argument; a deterministic scheduler for "fk" or "svdd"; a reward that is
            NaN or infinite (its seed is named), or of another autoencoder's latents.
            For a list: none, an empty prompt, or not one seed, reward or `until` for each.
        NotImplementedError: a scheduler or autoencoder without a verified rule.

    Cost: see each method's class.

    Example:
        >>> best = search(pipe, "a red fox", reward, budget=8, num_inference_steps=25)[0]
        >>> best.image.save("fox.png")
        >>> prompts = ["a red fox", "a white fox"]
        >>> reward = ClipReward(scorer, prompts)
        >>> both = [found[0] for found in search(pipe, prompts, reward, budget=8, batch_size=16)]
    """
    if budget < 1 or batch_size < 1:
        raise ValueError(f"got budget={budget}, batch_size={batch_size}, expected at least 1")
    chosen = find_method(method)
    prompts = [prompt] if prompt is None or isinstance(prompt, str) else [*prompt]
    if not prompts or not all(text is None or text.strip() for text in prompts[1:]):
        raise ValueError(f"got prompts {prompts}, expected one or more, none of them empty")
    methods = [
        chosen if one is None else stopping(chosen, one) for one in _each(until, len(prompts))
    ]
    apart = seeds_of(chosen, budget)
    seeds = (
        [seed + place * apart for place in range(len(prompts))]
        if isinstance(seed, int)
        else _each(seed, len(prompts))
    )
    calls = [Call(pipe, one, pipe_kwargs) for one in prompts]
    settings = SearchSettings(guidance, batch_size, decoder)
    with open_rollouts(calls, GivenRewards(reward, preview, final), settings) as rollouts:
        found = search_each(rollouts, methods, budget, seeds)
    return found[0] if prompt is None or isinstance(prompt, str) else found


def _each(given: T | Sequence[T], prompts: int) -> list[T]:
    """One for each prompt."""
    if not isinstance(given, Sequence):
        return [given] * prompts
    if len(given) != prompts:
        raise ValueError(f"got {len(given)} values for {prompts} prompts, expected one for each")
    return [*given]


@contextmanager
def open_rollout(
    call: Call,
    reward: RewardLike,
    *,
    preview: RewardLike | None = None,
    final: RewardLike | None = None,
    guidance: GuidanceConfig | None = None,
    batch_size: int = 4,
    decoder: Any = None,
    watch: Watch | None = None,
) -> Generator[Rollout]:
    """What a method searches with; arguments and errors as of `search`, `watch` as of `observe`."""
    settings = SearchSettings(guidance, batch_size, decoder, watch)
    with open_rollouts([call], GivenRewards(reward, preview, final), settings) as (rollout,):
        yield rollout


def seeds_of(method: str | Method, budget: int) -> int:
    """From how many seeds, one after the other, a search may draw: searches whose first seeds lie
    as far apart share no sample."""
    chosen = find_method(method)
    drawn = isinstance(chosen, Auto | Prune | FeynmanKac | BackStep)
    return chosen.seeds(budget) if drawn else budget


def stopping(method: str | Method, until: Until) -> StopWhenVerified:
    """A method, or its name, that ends at the first picture that is right: `StopWhenVerified`."""
    method = find_method(method)
    least = method.duplicates if isinstance(method, SoftValueDecoding) else 1
    return StopWhenVerified(method, until, least, partial(seeds_of, method))


def method_with(name: str, options: Mapping[str, Any]) -> Method:
    """A method by name, with settings of its own in the place of its defaults.

    Raises:
        ValueError: an unknown method or setting, with the choices; a value of another type or out
            of range.

    Example:
        >>> method_with("fk", {"funnel": 0.7}).funnel
        0.7
    """
    method: Any = find_method(name)
    known = {one.name: one.type for one in fields(method)}
    values: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            names = ", ".join(known) or "none"
            raise ValueError(f"got option {option!r} of search {name}, expected one of {names}")
        texts = str(known[option]) == "str"
        numbers = value if isinstance(value, list | tuple) else [value]
        if isinstance(value, str) != texts or any(isinstance(n, bool) for n in numbers):
            kind = "a text" if texts else "a number"
            raise ValueError(f"got option {option}={value!r} of search {name}, expected {kind}")
        whole = str(known[option]) == "int"
        if whole and not isinstance(value, int):
            raise ValueError(f"got option {option}={value}, expected a whole number")
        values[option] = tuple(value) if isinstance(value, list) else value
    return replace(method, **values)


def find_method(method: str | Method) -> Method:
    """A method by name, or the method itself.

    Raises:
        ValueError: an unknown name, with the choices.
    """
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(f"got search method {method!r}, expected one of {', '.join(METHODS)}")
    return METHODS[method]
