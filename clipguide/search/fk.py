"""Feynman-Kac steering: particles, reweighted by rewards of x0 previews and resampled on the way.

Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion
Models", https://arxiv.org/abs/2501.06848. The particles target p(x0)·exp(temperature·reward(x0)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.search.candidate import Candidate, best_first
from clipguide.search.numbers import check_numbers
from clipguide.search.path import Path
from clipguide.search.resampling import effective_sample_size, systematic_resample
from clipguide.search.rollout import Rollout
from clipguide.seeds import derive_generator, image_seeds, make_generators

# log of the potentials' product so far, from the rewards of the previews so far: (times, N) -> (N,)
# (Section 4.1 of the paper). The last potential makes each product exp(temperature·reward(x0)).
POTENTIALS: dict[str, Callable[[Tensor], Tensor]] = {
    "difference": lambda rewards: rewards[-1],
    "max": lambda rewards: rewards.cummax(0).values.sum(0),
    "sum": lambda rewards: rewards.cumsum(0).sum(0),
}


@dataclass(frozen=True)
class FeynmanKac:
    """Sequential Monte Carlo over denoising trajectories.

    Log-weights are kept between resamplings: they grow by each potential and go back to equal only
    where the effective sample size has fallen below `ess`·N and the particles are resampled
    (systematically). Particle i always draws from its own generator, so copies of one ancestor part
    again; that needs a scheduler that adds noise (DDPM, EulerAncestral, DDIM with eta > 0).

    Attributes:
        temperature: lambda of the paper, the inverse temperature of the reward; 0 or more. Rewards
            that vary by s between images want about 1/s to 3/s: 10 for ImageReward as in the paper,
            30 to 100 for a CLIP's cosine.
        potential: "difference", "max" or "sum" (of the rewards of the previews).
        interval: share of the denoiser calls between two looks at the particles, in (0, 1].
        ess: resample below this share of N, in [0, 1]; 1 always resamples, 0 never.
        funnel: share of the particles that goes on after each look, in (0, 1]. Below 1 there are
            more particles early, where they are cheap to explore with, and fewer late, and every
            look resamples; N is then the largest number that the budget can pay for.

    Cost: exactly `budget` trajectories for N = budget particles (within them with a funnel); per
    particle one preview (decode, reward) at each look and one final reward. Memory: each particle
    keeps its latents and model outputs so far. Returns the particles that are finished;
    `log_weight` are the final normalised weights.
    Raises: ValueError for a deterministic scheduler.
    """

    temperature: float = 50.0
    potential: str = "difference"
    interval: float = 0.2
    ess: float = 0.5
    funnel: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self)
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"got temperature={self.temperature}, expected a finite number >= 0")
        if self.potential not in POTENTIALS:
            raise ValueError(f"got potential {self.potential!r}, expected one of {[*POTENTIALS]}")
        if not 0 < self.interval <= 1:
            raise ValueError(f"got interval={self.interval}, expected a share of steps in (0, 1]")
        if not 0 <= self.ess <= 1:
            raise ValueError(f"got ess={self.ess}, expected a share of the particles in [0, 1]")
        if not 0 < self.funnel <= 1:
            raise ValueError(f"got funnel={self.funnel}, expected a share of them in (0, 1]")

    def __call__(self, rollout: Rollout, budget: int, seed: int) -> list[Candidate]:
        total = rollout.calls()
        counts = self.counts(budget, total)
        particles = Particles([Path(s) for s in image_seeds(seed, counts[0])], self)
        chance = derive_generator(make_generators([seed])[0], "fk")
        for calls, count in zip(self.looks(total), counts[1:], strict=True):
            paths, rewards = rollout.advance(particles.paths, calls, noisy=True)
            particles.weigh(paths, rewards)
            particles.resample(chance, count)
        seeds = [path.seed for path in particles.paths]
        found = rollout.candidates(seeds, rollout.finish(particles.paths, noisy=True))
        weights = particles.final_weights([candidate.score for candidate in found])
        return best_first(
            Candidate(c.image, c.score, c.seed, w) for c, w in zip(found, weights, strict=True)
        )

    def looks(self, total: int) -> list[int]:
        """After how many denoiser calls the particles are weighed; before the last call."""
        stride = max(1, round(self.interval * total))
        return list(range(stride, total, stride))

    def counts(self, budget: int, total: int) -> list[int]:
        """Particles begun, then those that go on after each look, within budget·total calls."""
        begins = [0, *self.looks(total)]
        spans = [end - begin for begin, end in zip(begins, [*begins[1:], total], strict=True)]

        def of(first: int) -> list[int]:
            return [max(1, round(first * self.funnel**look)) for look in range(len(spans))]

        first = budget
        while sum(n * span for n, span in zip(of(first + 1), spans, strict=True)) <= budget * total:
            first += 1
        return of(first)

    def seeds(self, budget: int) -> int:
        """As many seeds as a search may draw from, whatever the steps: the first look, before
        which all particles are denoised, comes after 2/3 of `interval` at least."""
        return budget if self.funnel == 1 else math.ceil(1.5 * budget / self.interval)


class Particles:
    """N paths with the rewards of their previews and their log-weights."""

    def __init__(self, paths: list[Path], settings: FeynmanKac) -> None:
        self.paths = paths
        self._settings = settings
        self._rewards = torch.zeros(0, len(paths), dtype=torch.float64)  # (times, N)
        self._product = torch.zeros(len(paths), dtype=torch.float64)  # (N,), log of G_T·...·G_t
        self._log_weights = torch.zeros(len(paths), dtype=torch.float64)  # (N,)

    def weigh(self, paths: list[Path], rewards: list[float]) -> None:
        """Multiplies each weight by the potential of its newest preview."""
        newest = torch.tensor([rewards], dtype=torch.float64)
        self.paths, self._rewards = paths, torch.cat([self._rewards, newest])
        potential = POTENTIALS[self._settings.potential]
        product = self._settings.temperature * potential(self._rewards)
        self._log_weights = self._log_weights + product - self._product
        self._product = product

    def resample(self, chance: torch.Generator, count: int | None = None) -> None:
        """Where few particles have most of the weight, or fewer than now are to go on: copies in
        proportion, equal weights."""
        before = len(self.paths)
        count = before if count is None else count
        enough = effective_sample_size(self._log_weights) >= self._settings.ess * before
        if enough and count == before:
            return
        ancestors = systematic_resample(self._log_weights, chance, count)
        self.paths = [
            path.following(self.paths[ancestor])
            for path, ancestor in zip(self.paths[:count], ancestors, strict=True)
        ]
        self._rewards, self._product = self._rewards[:, ancestors], self._product[ancestors]
        self._log_weights = torch.zeros(count, dtype=torch.float64)

    def final_weights(self, scores: list[float]) -> list[float]:
        """Normalised log-weights after the last potential, from the finished images' rewards."""
        target = self._settings.temperature * torch.tensor(scores, dtype=torch.float64)
        weights: list[float] = (
            (self._log_weights + target - self._product).log_softmax(dim=0).tolist()
        )
        return weights
