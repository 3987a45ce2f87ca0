"""Rewards of a batch of a search, whose images may be of several prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from clipguide.attach.observe import Step
from clipguide.rewards.base import Reward, check_rewards, terms_that_read
from clipguide.search.candidate import check_score
from clipguide.search.stages import Stage
from clipguide.seeds import derive_generator, make_generators

if TYPE_CHECKING:
    from clipguide.search.rollout import Rollout

Leveled: TypeAlias = tuple[Tensor, float]
"""Latents (B, C, h, w) in the normal form, and their sigma_bar."""


def reward_of(owners: Sequence[Rollout], stage: Stage) -> Reward:
    """What scores a batch at a stage, image i of which belongs to `owners[i]`: by its prompt.

    Args:
        owners: one per image.
        stage: see `StageRewards`.
    """
    first = owners[0]
    if first.joint is None or all(owner is first for owner in owners):
        return first.rewards.at(stage)
    return first.joint.rewards.at(stage).for_entries([owner.place for owner in owners])


def preview_rewards(owners: Sequence[Rollout], step: Step, seeds: Sequence[int]) -> Tensor:
    """Rewards of a step, (B,); sample i's views are drawn from seed i.

    Of images: of x0 decoded. Of latents: the mean of those of x0 and of the noisy latent, which
    tells earlier what the picture will be than either does (figures in the starter's card).
    """
    reward = reward_of(owners, "preview")
    images = step.images() if "images" in reward.reads else None
    latents: list[Leveled] = []
    if "latents" in reward.reads:
        latents = [(step.grid(), 0.0), step.noisy_grid()]
    return rewards(reward, images, latents, seeds, f"search, step {step.index}")


def rewards(
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
    values = sum(checked[1:], checked[0])
    for value, seed in zip(values.tolist(), seeds, strict=True):
        check_score(value, seed)
    return values
