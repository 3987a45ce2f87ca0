"""A text tower of another language guides the starter: right by the oracle, beside English.

Command: python -m training.languages.measure RUN [--prompts 100] [--batch 20]
         (RUN: what german.toml made)
Hardware: one CPU core. Minutes: 5.

The pipeline reads English in all rows, as its own text encoder does; the scorer that guides reads
the prompt in English or in German. Every row has the same seeds. Columns: right in per cent with
its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from PIL import Image

from clipguide.attach.guide import guide
from clipguide.clip.loading import load_scorer
from clipguide.clip.scorer import Scorer
from clipguide.data.scene_captions import SWAPS, parse_caption, phrasings, swap
from clipguide.data.scene_captions_german import german_phrasings
from clipguide.evaluation.preference import bootstrap_mean
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.generation.settings import settings_for
from clipguide.rewards.base import Reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.seeds import make_generators
from training.starter.measure import GRADIENTS, Bench, open_bench

RewardOf = Callable[[Sequence[str]], Reward]


def in_german(prompt: str) -> str:
    """A prompt of the grammar, in the German of the same phrase."""
    spec = parse_caption(prompt)
    return dict(zip(phrasings(spec), german_phrasings(spec), strict=True))[prompt]


def swapped(prompt: str) -> list[str]:
    """The prompt with its words in other places, in the same phrase."""
    spec = parse_caption(prompt)
    place = phrasings(spec).index(prompt)
    others = (swap(spec, kind) for kind in SWAPS)
    return [phrasings(other)[place] for other in others if other is not None]


def made(bench: Bench, reward_of: RewardOf | None) -> list[Image.Image]:
    """One picture of each prompt; guided by the reward that some prompts get, unless it is None."""
    images, scale = list[Image.Image](), settings_for("starter", {}).cfg_scale
    for start in range(0, len(bench.prompts), bench.batch):
        part = bench.prompts[start : start + bench.batch]
        context: Any = nullcontext()
        if reward_of is not None:
            context = guide(bench.pipe, reward_of(part), config=GRADIENTS, decoder=bench.decoder)
        with context:
            images += bench.pipe(
                part, generator=make_generators(range(start, start + len(part))),
                num_inference_steps=bench.steps, guidance_scale=scale,
            ).images  # fmt: skip
    return images


def rewards(scorer: Scorer, translate: Callable[[str], str]) -> dict[str, RewardOf]:
    """The cosine, and the contrast with the prompt's own words in other places."""

    def contrast(prompts: Sequence[str]) -> Reward:
        others = [[*map(translate, swapped(prompt))] for prompt in prompts]
        return ContrastReward(scorer, [*map(translate, prompts)], others)

    return {
        "cosine": lambda prompts: ClipReward(scorer, [*map(translate, prompts)]),
        "contrast": contrast,
    }


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="the scorer that reads German")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--batch", type=int, default=20)
    given = parser.parse_args()
    bench = open_bench(given.prompts, 25, given.batch)
    english = rewards(load_scorer("starter"), str)
    german = rewards(load_scorer(given.run), in_german)
    rows: dict[str, RewardOf | None] = {"unguided": None}
    for name in english:
        rows |= {f"{name}, English": english[name], f"{name}, German": german[name]}
    for name, reward_of in rows.items():
        images = made(bench, reward_of)
        verdicts = map(oracle_verdict, images, bench.prompts)
        right = [float(verdict.ok) for verdict in verdicts]
        low, high = bootstrap_mean(right)
        rate = 100 * sum(right) / len(right)
        print(f"{name:<20} {rate:5.1f} [{100 * low:.0f}, {100 * high:.0f}]", flush=True)


if __name__ == "__main__":
    main()
