"""The starter's figures: oracle accuracy unguided, guided, and best of four, on fixed prompts in one run.

Command: python -m training.starter.measure [--prompts 300] [--sweep]
Hardware: two CPU cores. Minutes: about 15 for 300 prompts.
Expected: the table of clipguide/assets/starter/README.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

import clipguide
from clipguide.attach.guide import guide
from clipguide.attach.starter import load_starter
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_prompts import fixed_prompts
from clipguide.evaluation.scene_oracle import judge
from clipguide.guidance.config import GuidanceConfig
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.views import Views

BATCH = 20


@dataclass(frozen=True)
class Outcome:
    """What one way of sampling gave: images in the order of the prompts, and seconds for each."""

    images: list[Image.Image]
    seconds: float


@dataclass(frozen=True)
class Figures:
    """One row of the table; accuracies in percent, scores are cosines."""

    name: str
    oracle: float
    seen: float
    held_out: float
    guiding: float
    judging: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name:<44} {self.oracle:6.1f} {self.seen:6.1f} {self.held_out:6.1f} "
            f"{self.guiding:8.4f} {self.judging:8.4f} {self.seconds:7.3f}"
        )


HEADER = (
    f"{'':<44} {'oracle':>6} {'seen':>6} {'novel':>6} {'guiding':>8} {'held-out':>8} {'s/image':>7}"
)


def sample(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], *, scorer: Scorer, cfg: float,
    steps: int, config: GuidanceConfig | None = None, views: Views = Views(), decoder: Any = None,
) -> Outcome:  # fmt: skip
    """One image per prompt and seed, in batches of :data:`BATCH`."""
    images: list[Image.Image] = []
    started = time.perf_counter()
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(s) for s in seeds[start : start + BATCH]]
        context: Any = nullcontext()
        if config is not None:
            reward = ClipReward(scorer, part, views=views)
            context = guide(pipe, reward, config=config, decoder=decoder)
        with context:
            images += pipe(
                part, generator=generators, num_inference_steps=steps, guidance_scale=cfg
            ).images
    return Outcome(images, (time.perf_counter() - started) / len(prompts))


def figures(
    name: str, outcome: Outcome, prompts: Sequence[str], novel: int, guiding: Scorer,
    judging: Scorer,
) -> Figures:  # fmt: skip
    """Judge an outcome; the last ``novel`` prompts are the held-out combinations."""
    right = [judge(image, text).ok for image, text in zip(outcome.images, prompts, strict=True)]
    seen = right[: len(right) - novel]
    return Figures(
        name,
        100 * sum(right) / len(right),
        100 * sum(seen) / max(1, len(seen)),
        100 * sum(right[len(seen) :]) / max(1, novel),
        float(guiding.score(outcome.images, list(prompts)).mean()),
        float(judging.score(outcome.images, list(prompts)).mean()),
        outcome.seconds,
    )
