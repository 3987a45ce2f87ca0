"""Systematic resampling against its definition: unbiased, at most one copy off, seeded."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguide.search.resampling import effective_sample_size, systematic_resample

log_weights = st.lists(st.floats(-8, 8), min_size=1, max_size=12)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=100)
@given(log_weights, st.integers(0, 2**31))
def test_each_particle_gets_the_floor_or_the_ceiling_of_its_share(values: list[float], seed: int):
    picked = systematic_resample(torch.tensor(values, dtype=torch.float64), generator(seed))
    total = sum(math.exp(v) for v in values)
    assert len(picked) == len(values)
    for index, value in enumerate(values):
        share = len(values) * math.exp(value) / total
        assert math.floor(share - 1e-9) <= picked.count(index) <= math.ceil(share + 1e-9)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6))
def test_unbiased(values: list[float]):
    """The mean count over 2,000 seeds is N·W_i. A count is floor or floor + 1: deviation <= 1/2."""
    rounds = 2000
    source = generator(0)
    weights = torch.tensor(values, dtype=torch.float64)
    counts = torch.zeros(len(values))
    for _ in range(rounds):
        counts += torch.bincount(
            torch.tensor(systematic_resample(weights, source)), minlength=len(values)
        )
    total = sum(math.exp(v) for v in values)
    expected = torch.tensor([len(values) * math.exp(v) / total for v in values])
    assert (counts / rounds - expected).abs().max() < 5 * 0.5 / math.sqrt(rounds)


def test_same_seed_same_ancestors_in_ascending_order():
    weights = torch.randn(32, generator=generator(1))
    first = systematic_resample(weights, generator(7))
    assert first == systematic_resample(weights, generator(7))
    assert first == sorted(first)
    others = [systematic_resample(weights, generator(seed)) for seed in range(8)]
    assert any(other != first for other in others)


def test_a_particle_without_weight_has_no_copies():
    picked = systematic_resample(torch.tensor([-math.inf, 0.0, -math.inf, 1.0]), generator(3))
    assert set(picked) <= {1, 3}


@pytest.mark.parametrize(
    "bad", [[], [math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0], [[0.0, 0.0]]]
)
def test_weights_that_cannot_be_normalised_are_refused(bad: list[float]):
    with pytest.raises(ValueError, match="log-weights"):
        systematic_resample(torch.tensor(bad), generator(0))


def test_effective_sample_size():
    assert effective_sample_size(torch.zeros(8)) == pytest.approx(8)
    assert effective_sample_size(torch.tensor([0.0, -math.inf, -math.inf])) == pytest.approx(1)
    # W = (1/2, 1/4, 1/4): 1 / (1/4 + 1/16 + 1/16)
    assert effective_sample_size(torch.tensor([2.0, 1.0, 1.0]).log()) == pytest.approx(8 / 3)
    assert effective_sample_size(torch.tensor([1e4, 1e4 - 1])) < 2  # no overflow
