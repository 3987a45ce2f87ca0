"""Soft value-based decoding: at every step several candidates, and the most promising goes on.

Li et al. 2024, "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft
Value-Based Decoding", https://arxiv.org/abs/2408.08252 (Algorithm 1, the posterior-mean variant
SVDD-PM: the value of x_t is the reward of its x0 preview).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.attach.observe import Step
from clipguide.batching import batches, slices
from clipguide.search.candidate import Candidate, best_first
from clipguide.search.numbers import check_numbers
from clipguide.search.path import Path
from clipguide.search.rewarding import preview_rewards
from clipguide.search.rollout import Rollout
from clipguide.search.works import Finished, run
from clipguide.seeds import derive_generator, image_seeds, make_generators


@dataclass(frozen=True)
class SoftValueDecoding:
    """Each image is decoded with M candidates for its next latent at every step.

    The M candidates come from one x_t by M draws of the scheduler's noise, so the scheduler must
    add noise (DDPM, EulerAncestral, DDIM with eta > 0). One of them is drawn with probability
    proportional to exp(value / temperature), the largest value where temperature is 0.

    Attributes:
        duplicates: M, candidates per step; 2 or more.
        temperature: alpha of the paper in units of the reward, 0 or more.

    Cost: M trajectories per image, so budget // M images; M previews (decode, reward) per image and
    step. A batch holds whole groups of M, so at least M images whatever `batch_size` says; where
    the pipeline is given a picture, and every image has to be a call of its own, each step of each
    candidate is one (its text and picture encoded again, its earlier steps replayed).
    Raises: ValueError for a deterministic scheduler, or a budget below M.
    """

    duplicates: int = 4
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.duplicates < 2:
            raise ValueError(f"got duplicates={self.duplicates}, expected 2 or more")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"got temperature={self.temperature}, expected a finite number >= 0")

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        images = budget // self.duplicates
        if images == 0:
            raise ValueError(f"got budget {budget}, expected at least duplicates={self.duplicates}")
        seeds = image_seeds(seed, images * self.duplicates)
        if rollout.call.alone:
            groups = batches(seeds, self.duplicates)
            return best_first(self._decode_alone(rollout, group) for group in groups)
        return best_first(self._decode(rollout, seeds))

    def _decode(self, rollout: Rollout, seeds: list[int]) -> list[Candidate]:
        """The best finished image of each group, in batches of whole groups."""
        return rollout.together(_Decode(self), batches(seeds, self.duplicates))

    def _decode_alone(self, rollout: Rollout, seeds: list[int]) -> Candidate:
        """One group, a pipeline call for each step of each candidate; the best finished image."""
        chances = [derive_generator(make_generators(seeds[:1])[0], "svdd")]
        paths = [Path(seed) for seed in seeds]
        for calls in range(1, rollout.calls() + 1):
            paths, rewards = rollout.advance(paths, calls, noisy=True)
            (picked,) = self.pick(torch.tensor([rewards]), chances).tolist()
            paths = [path.following(paths[picked]) for path in paths]
        return best_first(rollout.candidates(seeds, rollout.finish(paths, noisy=True)))[0]

    def pick(self, values: Tensor, chances: list[torch.Generator]) -> Tensor:
        """The row of the batch that each group goes on from; (groups, M) -> (groups,)."""
        values = values.double().cpu()
        if self.temperature == 0:
            chosen = values.argmax(dim=1)
        else:
            weights = torch.softmax(values / self.temperature, dim=1)
            draws = [
                torch.multinomial(row, 1, generator=chance)
                for row, chance in zip(weights, chances, strict=True)
            ]
            chosen = torch.cat(draws)
        return chosen + self.duplicates * torch.arange(len(values))


@dataclass(frozen=True)
class _Decode:
    """Groups of M seeds to the best finished image of each."""

    method: SoftValueDecoding

    def __call__(self, owners: Sequence[Rollout], items: Sequence[list[int]], /) -> list[Candidate]:
        size = max(1, owners[0].batch_size // self.method.duplicates)
        return [
            one
            for part in slices(len(items), size)
            for one in self._decode(owners[part], items[part])
        ]

    def _decode(self, owners: Sequence[Rollout], groups: Sequence[list[int]]) -> list[Candidate]:
        """Of one batch."""
        each = self.method.duplicates
        seeds = [seed for group in groups for seed in group]
        rows = [owner for owner in owners for _ in range(each)]
        leaders = make_generators(seeds[::each])
        chances = [derive_generator(leader, "svdd") for leader in leaders]

        def choose(step: Step) -> tuple[Tensor, Tensor]:
            values = preview_rewards(rows, step, seeds).view(-1, each)  # (groups, M)
            picked = self.method.pick(values, chances)
            return step.select(picked.repeat_interleave(each).to(step.sample.device))

        made = run(rows, make_generators(seeds), choose, noisy=True)
        done = Finished()(rows, [*zip(seeds, made.rows(), strict=True)])
        return [best_first(group)[0] for group in batches(done, each)]
