"""How a classifier errs: confusion, the pairs it mixes up, and whether its probabilities hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.clip.finite import check_finite

BINS = 10


@dataclass(frozen=True)
class Confused:
    """`count` images of `truth` were taken for `taken_for`: the `share` of that truth's images."""

    truth: str
    taken_for: str
    count: int
    share: float


def confusion_matrix(truth: Tensor, predicted: Tensor, labels: int) -> Tensor:
    """(L,L) counts: row true label, column predicted; both (N,) whole numbers below `labels`.

    Raises:
        ValueError: not as many of both, or a number outside [0, labels).
    """
    if truth.shape != predicted.shape or truth.ndim != 1:
        got = f"got shapes {tuple(truth.shape)} and {tuple(predicted.shape)}"
        raise ValueError(f"{got}, expected the same (N,)")
    both = torch.cat([truth, predicted])
    if len(both) and not 0 <= int(both.min()) <= int(both.max()) < labels:
        raise ValueError(f"got a label outside [0, {labels})")
    return torch.bincount(truth * labels + predicted, minlength=labels**2).view(labels, labels)


def most_confused(matrix: Tensor, labels: Sequence[str], top_k: int = 10) -> list[Confused]:
    """The pairs mixed up most often, ties in the labels' order; pairs never mixed up are left out.

    Args:
        matrix: of `confusion_matrix`.
        labels: their names.
        top_k: how many at most.
    """
    sizes: list[int] = matrix.sum(dim=1).tolist()
    counts: list[list[int]] = matrix.tolist()
    pairs = [
        Confused(labels[i], labels[j], count, count / sizes[i])
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair.count)[:top_k]


def expected_calibration_error(probabilities: Tensor, right: Tensor, bins: int = BINS) -> float:
    """ECE = sum over bins of (share of samples) * |mean probability - share that is right|.

    Guo et al. 2017 (arXiv:1706.04599), Eq. 3; `bins` of equal width, the last one closed.

    Args:
        probabilities: (N,) in [0, 1], of what was answered.
        right: (N,) bool: whether it was right.

    Raises:
        ValueError: none, not as many of both, or a probability outside [0, 1].
    """
    if probabilities.shape != right.shape or probabilities.ndim != 1 or not len(right):
        got = f"got shapes {tuple(probabilities.shape)} and {tuple(right.shape)}"
        raise ValueError(f"{got}, expected the same (N,), N >= 1")
    probabilities = probabilities.double()
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError("got probabilities outside [0, 1]")
    which = (probabilities * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, which, probabilities - right.double())
    return float(gaps.abs().sum() / len(right))


def fit_scale(cosines: Tensor, truth: Tensor) -> float:
    """The factor on cosines under whose softmax the true labels are likeliest (a temperature).

    Guo et al. 2017 (arXiv:1706.04599), section 4.2: one number, the ranking stays. The likelihood
    is concave in the factor, so a search by thirds finds the best of [0.01, 1000].

    Args:
        cosines: (N,L).
        truth: (N,) the true label of each.

    Raises:
        ValueError: no samples, not as many of both, or a cosine that is not finite.
    """
    if cosines.ndim != 2 or len(cosines) != len(truth) or not len(truth):
        got = f"got cosines {tuple(cosines.shape)} and {len(truth)} labels"
        raise ValueError(f"{got}, expected (N, L) and N, N >= 1")
    cosines = check_finite(cosines, "cosines").double()

    def loss(scale: float) -> float:
        return float(torch.nn.functional.cross_entropy(scale * cosines, truth))

    low, high = 0.01, 1000.0
    for _ in range(80):
        third = (high - low) / 3
        if loss(low + third) <= loss(high - third):
            high -= third
        else:
            low += third
    return (low + high) / 2
