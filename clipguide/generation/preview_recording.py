"""Rewards of x0 previews by step, recorded for a user's own pipeline and reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from clipguide.attach.observe import Step
from clipguide.generation.call import call_arguments
from clipguide.generation.models import Models
from clipguide.generation.settings import Settings
from clipguide.search import open_rollout
from clipguide.search.call import Call
from clipguide.search.preview_rewards import Floats, PreviewRewards
from clipguide.search.rollout import Rollout
from clipguide.seeds import image_seeds, make_generators

OnPrompt = Callable[[int], None]
"""Told how many prompts are done."""


def record_previews(
    models: Models,
    settings: Settings,
    prompts: Sequence[str],
    pictures: int,
    *,
    seed: int = 0,
    on_prompt: OnPrompt = lambda done: None,
) -> PreviewRewards:
    """What the settings' reward says of every preview of many pictures, without gradients.

    Args:
        models: loaded for `settings`, with their reward.
        settings: steps, scale, size, reward, views and batch size.
        prompts: what is asked for.
        pictures: of each prompt, from seeds `seed`, `seed` + 1, ...
        seed: of the first picture of every prompt.
        on_prompt: for progress.

    Returns:
        values (prompts, pictures, T), the last of T being the finished picture's.

    Cost: prompts · pictures trajectories, and after each of their T denoiser calls a preview
    (decode, reward).

    Raises:
        ValueError: no reward in `models`, no prompts, fewer than two pictures, a reward that is not
            finite.
        NotImplementedError: a scheduler or autoencoder whose previews have no verified rule.
    """
    if models.reward is None:
        raise ValueError("got models without a reward, expected settings with a search")
    if not prompts or pictures < 2:
        raise ValueError(f"got {len(prompts)} prompts, {pictures} pictures, expected 1 and 2")
    seeds = image_seeds(seed, pictures)
    aware = models.reward([prompts[0]], settings.views).noise_aware
    found: list[Floats] = []
    size = settings.batch_size
    for done, prompt in enumerate(prompts, 1):
        reward = models.reward([prompt], settings.views)
        call = Call(models.pipe, prompt, call_arguments(models.pipe, settings, 1))
        with open_rollout(call, reward, batch_size=size, decoder=models.decoder) as rollout:
            parts = [_recorded(rollout, batch) for batch in rollout.batches(seeds)]
        found.append(np.concatenate(parts))
        on_prompt(done)
    return PreviewRewards(np.stack(found), aware)


def _recorded(rollout: Rollout, seeds: list[int]) -> Floats:
    """(pictures, T) of one batch."""
    columns: list[torch.Tensor] = []

    def look(step: Step) -> None:
        columns.append(rollout.preview_rewards(step, seeds).double().cpu())

    made = rollout.run(make_generators(seeds), look)
    final = [candidate.score for candidate in rollout.candidates(seeds, made)]
    columns[-1] = torch.tensor(final, dtype=torch.float64)
    values: Floats = torch.stack(columns, dim=1).numpy()
    return values
