"""What the tests and the report do with a family: run it, guided and not, and look at its steps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from families.parts import PROMPT, Family
from tiny_pipelines import generators, tiny_scorer
from tiny_rewards import any_shape
from torch import Tensor

from clipguide.attach import decoders, noise_levels
from clipguide.attach.guide import guide
from clipguide.attach.layouts import DIRECT, is_a
from clipguide.attach.modes.plug_in import PlugIn
from clipguide.attach.observe import observe
from clipguide.guidance.trace import Trace
from clipguide.rewards import ClipReward, LatentReward

STRENGTH = 0.2
SEEDS = (0, 1)


def reward() -> ClipReward:
    return ClipReward(tiny_scorer(), PROMPT)


def images(family: Family, seeds: tuple[int, ...] = SEEDS, **more: Any) -> Tensor:
    """What the family's pipeline returns now, (B, 3, H, W) in [0, 1]."""
    call = family.call(len(seeds)) | {"num_inference_steps": family.steps} | more
    pipe = family.build()
    found: Tensor = pipe(**call, generator=generators(*seeds), output_type="pt").images
    return (found / 2 + 0.5).clamp(0, 1) if family.signed else found


@cache
def unguided(family: Family, seeds: tuple[int, ...] = SEEDS) -> Tensor:
    return images(family, seeds)


def guided(
    family: Family, mode: Any, seeds: tuple[int, ...] = SEEDS, **settings: Any
) -> tuple[Tensor, Trace]:
    settings.setdefault("strength", STRENGTH)
    climbed = settings.pop("reward", reward())
    with guide(family.build(), climbed, mode=mode, **settings) as trace:
        return images(family, seeds), trace


def gain(family: Family, found: Tensor, seeds: tuple[int, ...] = SEEDS) -> float:
    """How much better than unguided, on average over the seeds."""
    return float((reward()(found) - reward()(unguided(family, seeds))).mean())


def latent_gain(family: Family, seeds: tuple[int, ...] = SEEDS) -> float:
    """How much mode noisy moves a reward of latents at the last step, on average over the seeds."""
    last: list[Tensor] = []
    for strength in (0.0, STRENGTH):
        _, trace = guided(family, "noisy", seeds, strength=strength, reward=LatentReward(any_shape))
        last.append(trace.steps[-1].score)
    return float((last[1] - last[0]).mean())


def last_decoded(family: Family) -> tuple[Tensor, Tensor]:
    """(the last guided x0 decoded, what the pipeline returned), in mode x0."""
    previews: list[Tensor] = []
    with (
        guide(family.build(), reward(), STRENGTH),
        observe(family.build()) as observer,
        observer.watching(lambda step: previews.append(step.images())),
    ):
        returned = images(family)
    return previews[-1], returned


# --------------------------------------------------------- the gradient of mode xt, by differences


def slope_ratio(family: Family) -> float:
    """Difference quotient of the score along mode xt's own gradient, over that gradient's norm.

    1 where the gradient is exact: the whole way from the noisy sample through denoiser,
    classifier-free guidance, unpacking and decoding to the score is moved, not differentiated.
    (Without the clamp to [0, 1], whose gradient is on purpose not its slope.)
    """
    _, gradient = _first_guided(family, None, STRENGTH)
    norm = gradient.norm()
    far = 0.001 / norm  # along the gradient: about 0.001 in the score, to either side
    up, down = (_first_guided(family, sign * far * gradient / norm, 0.0)[0] for sign in (1.0, -1.0))
    return (up - down) / (2 * float(far) * float(norm))


def _first_guided(family: Family, offset: Tensor | None, strength: float) -> tuple[float, Tensor]:
    """Score and gradient of the first guided step, its sample moved by `offset`."""
    found: list[Any] = []

    evaluated: Any = PlugIn.evaluated

    def recorded(*args: Any, **kwargs: Any) -> Any:
        result = evaluated(*args, **kwargs)
        found.append(result[1])
        return result

    PlugIn.evaluated = recorded  # type: ignore[method-assign]
    clamp, decoders.inward_clamp = decoders.inward_clamp, lambda x: x
    noise_levels.inward_clamp = torch.clamp
    try:
        with guide(family.build(), reward(), strength, mode="xt"), _moved(family, offset) as call:
            images(family, (0,), **call)
    finally:
        PlugIn.evaluated = evaluated  # type: ignore[method-assign]
        decoders.inward_clamp = noise_levels.inward_clamp = clamp
    return float(found[0].score), found[0].gradient


@contextmanager
def _moved(family: Family, offset: Tensor | None) -> Generator[dict[str, Any]]:
    """Moves the sample of the first guided step; yields more arguments of the call.

    On the straight line the first step starts at alpha = 0, where mode xt has no formula: there
    the second step's sample is moved.
    """
    pipe = family.build()
    by: Any = 0.0 if offset is None else offset

    def after_first(pipe: Any, index: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"latents": tensors["latents"] + (by if index == 0 else 0.0)}

    if "FlowMatch" in type(pipe.scheduler).__name__:
        yield {"callback_on_step_end": after_first}
    elif is_a(pipe, DIRECT):
        waiting = [by]

        def move(module: Any, args: tuple[Tensor, ...]) -> None:
            if waiting:
                args[0].data.add_(waiting.pop())

        handle = pipe.unet.register_forward_pre_hook(move, prepend=True)
        try:
            yield {}
        finally:
            handle.remove()
    else:
        with observe(pipe) as observer, observer.watching(on_start=lambda noise: noise + by):
            yield {}
