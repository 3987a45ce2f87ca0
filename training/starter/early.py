"""What is known early: how often a score of an unfinished picture orders right and wrong ones.

Command:  python -m training.starter.early [--prompts 300] [--seeds 3] [--batch 25]
Hardware: one CPU core. Minutes: 11.
Columns:  after so many of the denoiser calls, and of the finished picture: percent of pairs of a
          right and a wrong picture (by the oracle) in which the right one scores higher, of all
          pairs, and, behind the stroke, of pairs of one prompt. Chance is 50.

Noisy latents are those that the last of the calls was given. Pictures are unguided; prompt i of
seed k begins from seed i + k times the number of prompts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipguide.attach.observe import Step, observe
from clipguide.clip.loading import load_scorer
from clipguide.evaluation.scene_oracle import oracle_verdict
from clipguide.images import to_pil
from clipguide.rewards.base import Reward
from clipguide.rewards.clip import ClipReward
from clipguide.rewards.contrast import ContrastReward
from clipguide.rewards.scorer import ScorerReward
from clipguide.seeds import make_generators

from .measure import Bench, open_bench

CALLS = (1, 3, 6, 10, 25)
Values = NDArray[np.float64]
Looks = dict[str, Callable[[Step, Tensor], Tensor]]
"""Row -> what it says of a step and its preview, (B,)."""


def rows_for(bench: Bench, prompts: Sequence[str]) -> Looks:
    """The rows of the table, for a batch of these prompts."""
    latent = ContrastReward(load_scorer("starter:latent"), prompts)
    cosine, contrast = ClipReward(bench.guiding, prompts), ContrastReward(bench.guiding, prompts)
    written = ScorerReward("log-prob:starter@0", prompts)

    def of_pictures(reward: Reward) -> Callable[[Step, Tensor], Tensor]:
        return lambda _step, preview: reward(preview)

    def both(step: Step, _preview: Tensor) -> Tensor:
        noisy, level = step.noisy_grid()
        return (latent.of_latents(step.grid(), 0.0) + latent.of_latents(noisy, level)) / 2

    def chosen(step: Step, preview: Tensor) -> Tensor:
        return both(step, preview) + 2 * contrast(preview) + 4 * written(preview)

    return {
        "cosine of the guide on previews": of_pictures(cosine),
        "contrast of the guide on previews": of_pictures(contrast),
        "starter:latent on the noisy latent": lambda step, _: latent.of_latents(*step.noisy_grid()),
        "starter:latent on x0": lambda step, _: latent.of_latents(step.grid(), 0.0),
        "starter:latent on both": both,
        "log-prob:starter@0 on previews": of_pictures(written),
        "both + 2 contrast + 4 log-prob": chosen,
    }


class _Asked:
    """Asks every row at the steps of `CALLS` of one pipeline call; `said` is what they said."""

    def __init__(self, rows: Looks) -> None:
        self._rows = rows
        self.said: dict[str, list[Values]] = {name: [] for name in rows}

    def __call__(self, step: Step) -> None:
        if step.index + 1 in CALLS:
            preview = step.images()
            for name, score in self._rows.items():
                self.said[name].append(score(step, preview).double().numpy())


@dataclass(frozen=True)
class Known:
    """`right` (prompts, seeds) of the finished pictures, and of each row what it said of them:
    (calls, prompts, seeds)."""

    right: Values
    said: dict[str, Values]


@torch.no_grad()
def watched(bench: Bench, seeds: int) -> Known:
    """Samples everything and asks all rows."""
    right, said = list[Values](), dict[str, list[Values]]()
    for first in range(0, seeds * len(bench.prompts), len(bench.prompts)):
        oks, columns = list[float](), dict[str, list[Values]]()
        for start in range(0, len(bench.prompts), bench.batch):
            part = bench.prompts[start : start + bench.batch]
            asked = _Asked(rows_for(bench, part))
            begun = range(first + start, first + start + len(part))
            with (
                observe(bench.pipe, decoder=bench.decoder) as observer,
                observer.watching(asked),
            ):
                pictures = bench.pipe(
                    part, generator=make_generators(begun), num_inference_steps=bench.steps,
                    guidance_scale=3.0, output_type="pt",
                ).images  # fmt: skip
            pairs = zip(to_pil(pictures), part, strict=True)
            oks += [float(oracle_verdict(*pair).ok) for pair in pairs]
            for name, values in asked.said.items():
                columns.setdefault(name, []).append(np.stack(values))
        right.append(np.array(oks))
        for name, values in columns.items():
            said.setdefault(name, []).append(np.concatenate(values, axis=1))
    return Known(np.stack(right, axis=1), {name: np.stack(v, axis=2) for name, v in said.items()})


def in_order(scores: Values, right: Values) -> tuple[float, float]:
    """Pairs and how many of them, ties counting half, are in the right order."""
    differences = scores[right == 1][:, None] - scores[right == 0][None]
    return float(((np.sign(differences) + 1) / 2).sum()), float(differences.size)


def shares(scores: Values, right: Values) -> tuple[float, float]:
    """Percent of all pairs of (prompts, seeds), and of the pairs of one prompt."""
    ordered, pairs = in_order(scores.ravel(), right.ravel())
    own = np.array([in_order(*row) for row in zip(scores, right, strict=True)]).sum(axis=0)
    return 100 * ordered / pairs, 100 * own[0] / own[1]


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300, help="how many fixed prompts")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each")
    parser.add_argument("--batch", type=int, default=25)
    given = parser.parse_args()
    bench = open_bench(given.prompts, CALLS[-1], given.batch)
    known = watched(bench, given.seeds)
    print(f"{known.right.size} pictures, {100 * known.right.mean():.1f} % right")
    print(f"{'after':<36} " + "  ".join(f"{calls:>11}" for calls in CALLS))
    for name, said in known.said.items():
        columns = [shares(values, known.right) for values in said]
        print(f"{name:<36} " + "  ".join(f"{all_:5.1f}/{own:5.1f}" for all_, own in columns))


if __name__ == "__main__":
    main()
