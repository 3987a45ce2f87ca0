"""FK steering on a discrete toy whose tilted posterior is known: total variation by particles.

Six states, five steps, a reward of the last state, previews that are the reward to be expected.
Measured, mean total variation from the tilted posterior:

    particles                               10      100     1,000
    weights kept between resamplings       .195    .041    .013
    weights dropped at every look          .233    .068    .050   (a bias that N does not cure)
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clipguide.search.fk import FeynmanKac, Particles
from clipguide.search.path import Path, StepRecord

STATES, TIMES, TEMPERATURE = 6, 5, 1.5
REWARD = np.array([0.0, 0.3, 1.0, -0.5, 0.8, 1.6])
KERNEL = np.random.default_rng(0).dirichlet(np.full(STATES, 0.7), size=STATES)  # rows sum to 1
START = np.full(STATES, 1 / STATES)


def tilted() -> np.ndarray:
    """p(x0)·exp(temperature·reward(x0)), normalised: the law that the particles aim at."""
    law = START @ np.linalg.matrix_power(KERNEL, TIMES)
    weighed = law * np.exp(TEMPERATURE * REWARD)
    return weighed / weighed.sum()


def previews() -> list[np.ndarray]:
    """The reward that is expected at the end, by the state after each step."""
    return [np.linalg.matrix_power(KERNEL, TIMES - time) @ REWARD for time in range(TIMES + 1)]


class DroppedWeights(Particles):
    """The mistake that is measured beside: weights forgotten at each look without a resampling."""

    def resample(self, chance: torch.Generator, count: int | None = None) -> None:
        super().resample(chance, count)
        self._log_weights = torch.zeros(len(self.paths), dtype=torch.float64)


def path_at(seed: int, state: int) -> Path:
    mark = torch.tensor([state])
    return Path(seed, (StepRecord(mark, mark, mark),))


def states_of(paths: list[Path]) -> list[int]:
    return [int(path.steps[-1].sample) for path in paths]


def run(kind: type[Particles], settings: FeynmanKac, count: int, seed: int) -> np.ndarray:
    """The weighted histogram of the finished particles."""
    rng, chance = np.random.default_rng([seed, count]), torch.Generator().manual_seed(seed)
    values = previews()
    looks = settings.looks(TIMES)
    counts = settings.counts(count, TIMES)
    alive = counts[0]
    particles = kind([path_at(i, int(rng.integers(STATES))) for i in range(alive)], settings)
    for time in range(1, TIMES + 1):
        moved = [int(rng.choice(STATES, p=KERNEL[s])) for s in states_of(particles.paths)]
        particles.paths = [path_at(i, state) for i, state in enumerate(moved)]
        if time in looks:
            particles.weigh(particles.paths, values[time][moved].tolist())
            particles.resample(chance, counts[looks.index(time) + 1])
    final = states_of(particles.paths)
    weights = np.exp(particles.final_weights(REWARD[final].tolist()))
    return np.bincount(final, weights, minlength=STATES)


def distance(law: np.ndarray) -> float:
    """Total variation from the tilted law."""
    return float(0.5 * np.abs(law - tilted()).sum())


def variation(kind: type[Particles], settings: FeynmanKac, count: int, runs: int) -> float:
    """The mean distance of a run."""
    return float(np.mean([distance(run(kind, settings, count, seed)) for seed in range(runs)]))


def bias(kind: type[Particles], settings: FeynmanKac, count: int, runs: int) -> float:
    """The distance of the mean of runs: what more runs do not take away."""
    return distance(np.mean([run(kind, settings, count, seed) for seed in range(runs)], axis=0))


SETTINGS = FeynmanKac(TEMPERATURE, interval=0.2, ess=0.5)


def test_total_variation_falls_with_the_particles() -> None:
    """As 1/sqrt(N), so tenfold particles take away about two thirds."""
    found = [
        variation(Particles, SETTINGS, n, runs) for n, runs in ((10, 40), (100, 12), (1000, 4))
    ]
    expected = [math.sqrt(10), math.sqrt(10)]
    for before, after, ratio in zip(found, found[1:], expected, strict=False):
        assert before / after > 0.6 * ratio
    assert found[2] < 0.04


def test_dropped_weights_leave_a_bias() -> None:
    kept, dropped = (variation(kind, SETTINGS, 1000, 4) for kind in (Particles, DroppedWeights))
    assert dropped > 2.5 * kept
    assert bias(DroppedWeights, SETTINGS, 1000, 4) > 0.035 > bias(Particles, SETTINGS, 1000, 4)


@pytest.mark.parametrize("funnel", [0.6, 0.85])
def test_a_funnel_aims_at_the_same_law(funnel: float) -> None:
    settings = FeynmanKac(TEMPERATURE, interval=0.2, ess=0.5, funnel=funnel)
    counts = settings.counts(1000, TIMES)
    assert counts[0] > 1000 > counts[-1]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) <= 1000 * TIMES < sum(settings.counts(1001, TIMES))
    assert bias(Particles, settings, 1000, 6) < 0.04


def test_no_funnel_is_as_before() -> None:
    for budget, total in ((1, 1), (7, 13), (16, 25)):
        assert set(FeynmanKac().counts(budget, total)) == {budget}
    assert FeynmanKac().seeds(9) == 9
    for budget, total in ((4, 7), (16, 4), (9, 50), (16, 3)):
        settings = FeynmanKac(funnel=0.5)
        assert settings.counts(budget, total)[0] <= settings.seeds(budget)
    with pytest.raises(ValueError, match="got funnel=0, expected a share"):
        FeynmanKac(funnel=0)
