"""Images and captions in the plane: t-SNE or UMAP of both together, by their cosines.

van der Maaten & Hinton 2008 (JMLR 9); McInnes et al. 2018 (https://arxiv.org/abs/1802.03426).
Needs the extra `clipguide[plot]`, which is imported when a function is called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipguide.extras import need

Points = NDArray[np.float32]


def project(
    images: Tensor, texts: Tensor, method: str = "umap", *, center: bool = False, seed: int = 0
) -> tuple[Points, Points]:
    """Both sides in one map; equal seeds give equal maps on one machine.

    Args:
        images: (N, D) unit vectors.
        texts: (C, D) unit vectors of the same model.
        method: one of `METHODS`.
        center: take each side's mean off first. Images and texts of a CLIP lie in two cones apart
            (Liang et al. 2022, https://arxiv.org/abs/2203.02053): without this the map shows two
            islands, with it which images and texts belong together.
        seed: of the method.

    Returns:
        (N, 2) and (C, 2).

    Raises:
        ValueError: vectors of two sizes, fewer than 5 in all, an unknown method, or the extra is
            not installed.
    """
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        got = f"{tuple(images.shape)} and {tuple(texts.shape)}"
        raise ValueError(f"got vectors {got}, expected (N, D) and (C, D)")
    if len(images) + len(texts) < 5:
        raise ValueError(f"got {len(images) + len(texts)} vectors, expected at least 5")
    if method not in METHODS:
        raise ValueError(f"got method {method!r}, expected one of {[*METHODS]}")
    sides = [side.detach().float().cpu() for side in (images, texts)]
    if center:
        sides = [side - side.mean(dim=0, keepdim=True) for side in sides]
    vectors: Points = torch.nn.functional.normalize(torch.cat(sides), dim=1).numpy()
    points = METHODS[method](vectors, seed)
    return points[: len(images)], points[len(images) :]


def _tsne(vectors: Points, seed: int) -> Points:
    manifold = need("sklearn.manifold", "plot")
    nearby = min(30.0, (len(vectors) - 1) / 3)  # perplexity
    found: Any = manifold.TSNE(
        metric="cosine", init="random", perplexity=nearby, random_state=seed
    ).fit_transform(vectors)
    return np.asarray(found, dtype=np.float32)


def _umap(vectors: Points, seed: int) -> Points:
    umap = need("umap", "plot")
    nearby = min(15, len(vectors) - 1)
    # with few points the spectral start has no room: it wants more points than dimensions + 1
    start = "spectral" if len(vectors) > 15 else "random"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed means one thread
        found: Any = umap.UMAP(
            metric="cosine", n_neighbors=nearby, init=start, random_state=seed
        ).fit_transform(vectors)
    return np.asarray(found, dtype=np.float32)


METHODS: dict[str, Callable[[Points, int], Points]] = {"umap": _umap, "tsne": _tsne}
"""Name -> (unit vectors (P, D), seed) -> points (P, 2)."""
