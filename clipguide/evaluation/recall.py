"""Retrieval among a set of images and their captions: R@K and median rank, with intervals.

Convention of the field (Karpathy & Fei-Fei 2015, section 4.1, https://arxiv.org/abs/1412.2306):
every caption looks for its image; every image looks for any of its captions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipguide.batching import slices
from clipguide.clip.finite import check_finite

KS = (1, 5, 10)
_ROWS = 1024  # queries compared at once


@dataclass(frozen=True)
class Recall:
    """One direction.

    Attributes:
        at: K -> share of queries whose answer is among the first K, in percent.
        interval: K -> (low, high), 95 % of bootstrap samples of the images.
        median_rank: 1 is the best.
    """

    at: dict[int, float]
    interval: dict[int, tuple[float, float]]
    median_rank: float


def text_ranks(images: Tensor, texts: Tensor, owners: Tensor) -> Tensor:
    """(C,) the rank of each caption's image, 1 for the best; a tie counts against it."""
    ranks: list[Tensor] = []
    for rows, owner in zip(texts.split(_ROWS), owners.split(_ROWS), strict=True):
        similarity = rows @ images.T  # (c, N)
        own = similarity.gather(1, owner.unsqueeze(1))
        ranks.append((similarity >= own).sum(dim=1))  # itself included
    return torch.cat(ranks)


def image_ranks(images: Tensor, texts: Tensor, owners: Tensor) -> Tensor:
    """(N,) the rank of each image's best own caption among all others; a tie counts against it."""
    ranks: list[Tensor] = []
    for rows in slices(len(images), _ROWS):
        similarity = images[rows] @ texts.T  # (n, C)
        places = torch.arange(rows.start, rows.stop, device=owners.device)
        own = owners.unsqueeze(0) == places.unsqueeze(1)
        best = similarity.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        ranks.append(((similarity >= best) & ~own).sum(dim=1) + 1)
    return torch.cat(ranks)


def retrieval(
    images: Tensor,
    texts: Tensor,
    owners: Tensor,
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Recall]:
    """Both directions among unit vectors.

    Args:
        images: (N, D).
        texts: (C, D).
        owners: (C,) the image that each caption belongs to; every image has one or more.
        samples: of the bootstrap, which draws images with their captions.
        seed: of the bootstrap.

    Returns:
        "text_to_image" and "image_to_text". **Cost**: N · C dot products twice.

    Raises:
        ValueError: shapes that do not belong together, or an image without a caption;
            a vector that is not finite (its place is given).
    """
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        got = f"{tuple(images.shape)} and {tuple(texts.shape)}"
        raise ValueError(f"got vectors {got}, expected (N, D) and (C, D)")
    if owners.shape != texts.shape[:1] or len(owners.unique()) != len(images):
        raise ValueError("got owners that are not one image for each caption, and each image one")
    check_finite(images, "image vectors")
    check_finite(texts, "caption vectors")
    groups: NDArray[np.int64] = owners.cpu().numpy()
    lone: NDArray[np.int64] = np.arange(len(images))
    by_text = text_ranks(images, texts, owners).cpu().numpy()
    by_image = image_ranks(images, texts, owners).cpu().numpy()
    return {
        "text_to_image": _summary(by_text, groups, samples, seed),
        "image_to_text": _summary(by_image, lone, samples, seed),
    }


def _summary(
    ranks: NDArray[np.int64], owners: NDArray[np.int64], samples: int, seed: int
) -> Recall:
    count = int(owners.max()) + 1
    sizes = np.bincount(owners, minlength=count)  # queries of each image
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), samples)
    at: dict[int, float] = {}
    interval: dict[int, tuple[float, float]] = {}
    for k in KS:
        hits = np.bincount(owners, weights=(ranks <= k).astype(float), minlength=count)
        at[k] = 100.0 * float(hits.sum() / sizes.sum())
        shares = 100.0 * (drawn @ hits) / (drawn @ sizes)
        low, high = np.percentile(shares, [2.5, 97.5])
        interval[k] = float(low), float(high)
    return Recall(at, interval, float(np.median(ranks)))


def recall_report(images: Tensor, texts: Tensor, owners: Tensor) -> dict[str, Any]:
    """`retrieval` of both directions as a JSON object, in percent to two decimals."""
    return {
        direction: {
            **{f"R@{k}": round(value, 2) for k, value in recall.at.items()},
            **{f"R@{k} 95%": [round(v, 2) for v in pair] for k, pair in recall.interval.items()},
            "median rank": recall.median_rank,
        }
        for direction, recall in retrieval(images, texts, owners).items()
    }
