"""Rankings with several right answers: average precision, R-precision, first rank, recall at K.

Convention: a wrong answer that ties with a right one stands before it, so that scores without
meaning (all equal) are never perfect; the same as `clipguide.evaluation.recall`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipguide.clip.finite import check_finite

_ROWS = 1024  # queries ranked at once


@dataclass(frozen=True)
class Ranking:
    """One value per query, (Q,) each.

    Attributes:
        average_precision: mean over the right answers of the share of right ones down to it
            (Manning et al. 2008, Introduction to Information Retrieval, section 8.4); its mean over
            the queries is mAP.
        r_precision: share of right ones among the first R, R being how many are right.
        first: rank of the first right one, 1 the best; R@K is the share of queries with first <= K.
    """

    average_precision: Tensor
    r_precision: Tensor
    first: Tensor


def rank_answers(scores: Tensor, relevant: Tensor) -> Ranking:
    """How early each query's right answers come.

    R-precision of generated images (Xu et al. 2018, AttnGAN, https://arxiv.org/abs/1711.10485,
    section 4): a query is an image, its answers the true prompt and 99 others, R = 1.
    **Cost**: Q · N log N.

    Args:
        scores: (Q, N), higher is nearer.
        relevant: (Q, N) bool, at least one right answer a query.

    Raises:
        ValueError: shapes that differ, a query without a right answer (its place), a score that is
            NaN or infinite.

    Example:
        >>> right = torch.tensor([[True, False, True]])
        >>> rank_answers(torch.tensor([[0.9, 0.8, 0.7]]), right).r_precision
        tensor([0.5000])
    """
    if scores.ndim != 2 or scores.shape != relevant.shape or relevant.dtype != torch.bool:
        got = f"{tuple(scores.shape)} and {relevant.dtype} {tuple(relevant.shape)}"
        raise ValueError(f"got scores and answers {got}, expected (Q, N) and bool (Q, N)")
    check_finite(scores, "scores")
    count = relevant.sum(dim=1)  # (Q,)
    if bool((count == 0).any()):
        place = int((count == 0).nonzero()[0])
        raise ValueError(f"got query {place} without a right answer, expected one or more")
    # two stable sorts: wrong before right, then by the score
    order = relevant.to(torch.uint8).argsort(dim=1, stable=True)
    by_score = scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
    right = relevant.gather(1, order.gather(1, by_score)).float()  # (Q, N) in order of rank
    ranks = torch.arange(1, right.shape[1] + 1, device=right.device)
    so_far = right.cumsum(dim=1)
    return Ranking(
        average_precision=(right * so_far / ranks).sum(dim=1) / count,
        r_precision=so_far.gather(1, count[:, None] - 1)[:, 0] / count,
        first=right.argmax(dim=1) + 1,
    )


def precisions(images: Tensor, texts: Tensor, owners: Tensor) -> dict[str, dict[str, float]]:
    """mAP and R-precision of both directions, in percent.

    Args:
        images: (N, D) unit vectors.
        texts: (C, D) unit vectors.
        owners: (C,) the image of each caption; every image has one or more.

    **Cost**: N · C dot products twice, and as many values sorted, in blocks of queries.

    Raises:
        ValueError: see `rank_answers`.
    """
    places = torch.arange(len(images), device=owners.device)
    return {
        "text_to_image": _precision(texts, images, owners, places),
        "image_to_text": _precision(images, texts, places, owners),
    }


def _precision(queries: Tensor, answers: Tensor, asked: Tensor, given: Tensor) -> dict[str, float]:
    """An answer is right where `given` (N,) is what the query `asked` (Q,) for."""
    found = [
        rank_answers(rows @ answers.T, wanted[:, None] == given[None, :])
        for rows, wanted in zip(queries.split(_ROWS), asked.split(_ROWS), strict=True)
    ]
    means = {
        "mAP": torch.cat([ranking.average_precision for ranking in found]),
        "R-precision": torch.cat([ranking.r_precision for ranking in found]),
    }
    return {name: 100 * float(values.mean()) for name, values in means.items()}
