"""Metrics of sets of features against slow versions, and other libraries where they are there."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from clipguide.evaluation.set_coverage import coverage
from clipguide.evaluation.set_distances import cmmd, frechet_distance, kernel_distance
from clipguide.evaluation.set_diversity import mean_pairwise_distance, vendi_score


def draw(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=random, dtype=torch.float64) + shift


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


SIZES = [(12, 5), (5, 12), (2, 3)]


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_mean_pairwise_distance_is_that_of_the_pairs(count: int, size: int) -> None:
    x = draw(count, size, 0)
    pairs = [1 - cosine(x[i], x[j]) for i in range(count) for j in range(i)]
    assert mean_pairwise_distance(x) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@pytest.mark.parametrize(("count", "size"), SIZES)
def test_vendi_is_the_entropy_of_the_matrix_of_cosines(count: int, size: int) -> None:
    x = draw(count, size, 1)
    kernel = torch.tensor([[cosine(a, b) for b in x] for a in x], dtype=torch.float64)
    values = [float(v) for v in torch.linalg.eigvals(kernel / count).real if float(v) > 1e-14]
    expected = math.exp(-sum(v * math.log(v) for v in values))
    assert vendi_score(x) == pytest.approx(expected, abs=1e-6)
    assert vendi_score(x[:1].repeat(4, 1)) == pytest.approx(1.0, abs=1e-9)


def test_kid_is_the_mean_over_pairs_of_different_samples() -> None:
    x, y = draw(9, 4, 2), draw(9, 4, 3, 0.5)

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 4 + 1) ** 3

    def within(side: Tensor) -> float:
        return sum(
            kernel(side[i], side[j]) for i in range(9) for j in range(9) if i != j
        ) / (9 * 8)  # fmt: skip

    across = sum(kernel(a, b) for a in x for b in y) / 81
    found = kernel_distance(x, y)
    assert found.mean == pytest.approx(within(x) + within(y) - 2 * across, abs=1e-9)
    assert (found.deviation, found.subsets, found.subset_size) == (0.0, 1, 9)


def test_kid_of_subsets_is_drawn_by_the_seed() -> None:
    x, y = draw(30, 4, 4), draw(40, 4, 5)
    found = kernel_distance(x, y, subsets=20, subset_size=10, seed=7)
    assert found == kernel_distance(x, y, subsets=20, subset_size=10, seed=7)
    assert found != kernel_distance(x, y, subsets=20, subset_size=10, seed=8)
    assert found.deviation > 0


def test_cmmd_is_the_gaussian_kernel_of_unit_vectors() -> None:
    x, y = draw(7, 6, 6), draw(9, 6, 7, 1.0)

    def kernel(a: Tensor, b: Tensor) -> float:
        apart = a / a.norm() - b / b.norm()
        return math.exp(-float(apart @ apart) / 200)

    def mean(a: Tensor, b: Tensor) -> float:
        return sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert cmmd(x, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("count", [200, 8])
def test_frechet_distance_is_that_of_scipys_root(count: int) -> None:
    x, y = draw(count, 5, 8), draw(count + 1, 5, 9, 0.4)
    a, b = torch.cov(x.T), torch.cov(y.T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = sqrtm((a @ b).numpy())
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    expected = shift + float(a.trace() + b.trace()) - 2 * float(root.real.trace())
    assert frechet_distance(x, y) == pytest.approx(expected, abs=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)


def test_frechet_distance_of_fewer_samples_than_numbers() -> None:
    """Σ1 Σ2 is singular: its root by the eigenvalues, which are real and not negative."""
    x, y = draw(6, 20, 10), draw(9, 20, 11, 0.2)
    a, b = torch.cov(x.T), torch.cov(y.T)
    shared = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    shift = (x.mean(0) - y.mean(0)).square().sum()
    expected = float(shift + a.trace() + b.trace() - 2 * shared)
    assert frechet_distance(x, y) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_coverage_by_every_pair(k: int) -> None:
    x, y = draw(20, 3, 12), draw(25, 3, 13, 0.3)

    def radius(side: Tensor, i: int) -> float:
        return sorted(math.dist(side[i].tolist(), o.tolist()) for o in side)[k]  # itself first

    def inside(point: Tensor, side: Tensor) -> list[bool]:
        return [
            math.dist(point.tolist(), side[i].tolist()) < radius(side, i) for i in range(len(side))
        ]

    real = [inside(point, y) for point in x]
    made = [inside(point, x) for point in y]
    found = coverage(x, y, neighbours=k)
    assert found.precision == pytest.approx(sum(map(any, real)) / 20, abs=1e-12)
    assert found.recall == pytest.approx(sum(map(any, made)) / 25, abs=1e-12)
    assert found.density == pytest.approx(sum(map(sum, real)) / (20 * k), abs=1e-12)
    held = [any(row[i] for row in real) for i in range(25)]
    assert found.coverage == pytest.approx(sum(held) / 25, abs=1e-12)


def test_torch_fidelity_says_the_same() -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid")
    kid = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = draw(60, 8, 14), draw(60, 8, 15, 0.3)
    theirs = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(x), fid.fid_features_to_statistics(y), False
    )
    assert frechet_distance(x, y) == pytest.approx(next(iter(theirs.values())), abs=1e-6)
    found = kid.kid_features_to_metric(
        x, y, kid_subsets=1, kid_subset_size=60, rng_seed=0, verbose=False
    )
    mean = next(value for name, value in found.items() if "mean" in name)
    assert kernel_distance(x, y).mean == pytest.approx(mean, abs=1e-6)


METRICS: dict[str, Callable[[Tensor], object]] = {
    "pairs": mean_pairwise_distance,
    "vendi": vendi_score,
    "kid": lambda x: kernel_distance(x, draw(9, 4, 0)),
    "cmmd": lambda x: cmmd(x, draw(9, 4, 0)),
    "frechet": lambda x: frechet_distance(draw(9, 4, 0), x),
    "coverage": lambda x: coverage(x, draw(9, 4, 0), neighbours=1),
}


@pytest.mark.parametrize("name", [*METRICS])
def test_nan_and_too_few_are_errors(name: str) -> None:
    metric = METRICS[name]
    metric(draw(9, 4, 1))
    for bad in (math.nan, math.inf):
        x = draw(9, 4, 1)
        x[3, 2] = bad
        with pytest.raises(ValueError, match="NaN or infinite features of image 3"):
            metric(x)
    with pytest.raises(ValueError, match="got 1 samples, expected at least 2"):
        metric(draw(1, 4, 1))


def test_the_image_is_named_by_its_file() -> None:
    x = draw(2, 4, 1)
    x[1] = math.nan
    with pytest.raises(ValueError, match=r"features of fox\.png"):
        vendi_score(x, ["cat.png", "fox.png"])
    with pytest.raises(ValueError, match=r"length 0 of cat\.png"):
        mean_pairwise_distance(torch.eye(2) * torch.tensor([[0.0], [1.0]]), ["cat.png", "fox.png"])
    with pytest.raises(ValueError, match="one size on both sides"):
        cmmd(draw(3, 4, 0), draw(3, 5, 0))
