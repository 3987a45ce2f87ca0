"""Spend more denoiser calls on one prompt and keep the best: eight methods under one function."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from clipguide.attach.decoders import autoencoder
from clipguide.attach.guide import guide
from clipguide.attach.observe import Watch, observe
from clipguide.guidance.config import GuidanceConfig
from clipguide.rewards.base import Reward, as_reward
from clipguide.search.auto import Auto
from clipguide.search.backstep import BackStep
from clipguide.search.best_of import BestOf
from clipguide.search.call import Call
from clipguide.search.candidate import Candidate
from clipguide.search.fk import FeynmanKac
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
    "search",
    "seeds_of",
]

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


def search(
    pipe: Any,
    prompt: str | None,
    reward: Reward | Callable[[Tensor], Tensor],
    method: str | Method = "best_of",
    budget: int = 16,
    seed: int = 0,
    *,
    until: Until | None = None,
    guidance: GuidanceConfig | None = None,
    final: Reward | Callable[[Tensor], Tensor] | None = None,
    batch_size: int = 4,
    decoder: Any = None,
    **pipe_kwargs: Any,
) -> list[Candidate]:
    """Images of one prompt found by spending `budget` trajectories, best first.

    Args:
        pipe: a diffusers pipeline; "prune", "fk" and "svdd" look at x0 previews and need a
            scheduler and an autoencoder that guidance knows (`clipguide.register_scheduler`).
        prompt: one text; None for pipelines without one.
        reward: images (B, 3, H, W) in [0, 1] to (B,), higher is better; need not be differentiable
            (unless `guidance` is given).
        method: "best_of" | "prune" | "fk" | "svdd" | "noise" | "noise_gradient" | "backstep"
            | "auto" (by a measured table), or an instance with settings of its
            own: `Prune(at=0.4, keep=0.5)`, `FeynmanKac(temperature=100)`, ...
        budget: denoiser calls, in units of one full trajectory of one image (one call being one
            step of one image, with or without classifier-free guidance). No method exceeds it.
        seed: image i draws from seed + i alone. The same seed gives the same images.
        until: stop when verified (`clipguide.search.until.StopWhenVerified`): a reward that is
            enough, or a function of a finished picture that says whether it is right, such as
            `ToldFromSwaps(scorer, prompt)`. Pictures that are right come first.
        guidance: gradients as well: every trajectory runs inside `guide(pipe, reward, ...)`.
        final: another reward, of the finished pictures alone, by which the candidates are ordered;
            None: `reward`. For a scorer too dear for previews, or to choose among pictures of which
            `reward` is too sure because gradients climbed it.
        batch_size: most images per pipeline call (one where the call is given a picture or latents:
            diffusers would encode it with the first image's generator). Candidates of batch_size=1
            are `pipe(generator=seed)` to the bit. In a batch, torch sums in another order, which
            moves latents by about 1e-6: unguided, less than 1e-3 of 255 levels in the picture;
            guided, up to tens of levels (strength 0.3), for guided steps magnify any difference as
            small, also one in the starting noise.
        decoder: for previews and guidance, as in `guide`: an AutoencoderTiny makes both cheap.
        pipe_kwargs: further arguments of the pipeline (num_inference_steps, guidance_scale,
            negative_prompt, eta, height, image, ...).

    Returns:
        "best_of", "fk": `budget` candidates. "prune": those that were finished. "svdd": one per
        `duplicates` trajectories. The others: every image of every round.

    Raises:
        ValueError: a bad argument; a deterministic scheduler for "fk" or "svdd"; a reward that is
            NaN or infinite (its seed is named), or of another autoencoder's latents.
        NotImplementedError: a scheduler or autoencoder without a verified rule.

    Cost: see each method's class.

    Example:
        >>> best = search(pipe, "a red fox", reward, budget=8, num_inference_steps=25)[0]
        >>> best.image.save("fox.png")
    """
    chosen = find_method(method)
    if until is not None:
        chosen = stopping(chosen, until)
    if budget < 1 or batch_size < 1:
        raise ValueError(f"got budget={budget}, batch_size={batch_size}, expected at least 1")
    call = Call(pipe, prompt, pipe_kwargs)
    opened = open_rollout(
        call, reward, final=final, guidance=guidance, batch_size=batch_size, decoder=decoder
    )
    with opened as rollout:
        return chosen(rollout, budget, seed)


@contextmanager
def open_rollout(
    call: Call,
    reward: Reward | Callable[[Tensor], Tensor],
    *,
    final: Reward | Callable[[Tensor], Tensor] | None = None,
    guidance: GuidanceConfig | None = None,
    batch_size: int = 4,
    decoder: Any = None,
    watch: Watch | None = None,
) -> Generator[Rollout]:
    """What a method searches with; arguments and errors as of `search`, `watch` as of `observe`."""
    climbed, last = as_reward(reward), None if final is None else as_reward(final)
    for one in (climbed,) if last is None else (climbed, last):
        one.check_autoencoder(autoencoder(call.pipe))
    with ExitStack() as stack:
        if guidance is not None:
            stack.enter_context(guide(call.pipe, climbed, decoder=decoder, config=guidance))
        observer = stack.enter_context(observe(call.pipe, decoder=decoder, watch=watch))
        yield Rollout(call, climbed, batch_size, observer, last)


def seeds_of(method: str | Method, budget: int) -> int:
    """From how many seeds, one after the other, a search may draw: searches whose first seeds lie
    as far apart share no sample."""
    chosen = find_method(method)
    drawn = isinstance(chosen, Auto | Prune | FeynmanKac | BackStep)
    return chosen.seeds(budget) if drawn else budget


def stopping(method: Method, until: Until) -> StopWhenVerified:
    """A method that ends at the first picture that is right, see `StopWhenVerified`."""
    least = method.duplicates if isinstance(method, SoftValueDecoding) else 1
    return StopWhenVerified(method, until, least, partial(seeds_of, method))


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
