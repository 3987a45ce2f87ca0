"""Fit an index's probabilities to captions whose images are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from clipguide.clip.finite import check_finite
from clipguide.clip.scorer import Scorer
from clipguide.retrieval.assessment import TOP, labelled_captions
from clipguide.retrieval.build import renew_calibration
from clipguide.retrieval.calibration import Calibration, Fit, write_calibration
from clipguide.retrieval.catalog import change_catalog, writer_lock
from clipguide.retrieval.index import open_index
from clipguide.retrieval.stores import store_of

LEAST = 20
"""Captions below which nothing is fitted: two parameters need evidence."""


def calibrate_index(folder: str | Path, captions: str | Path, scorer: Scorer) -> Fit:
    """Fit slope and offset to the captions of indexed images, and keep them in the index.

    Each caption is asked twice: with its image in the index, and as if its image were not there.
    The first `TOP` hits of both answers are labelled by whether they are its image, and slope and
    offset maximise the likelihood of these labels (Platt 1999). So the probabilities hold when half
    of what is asked for is there (`PRIOR`). Use captions that the model was not trained on.

    Cost: one text pass per caption, one search.

    Raises:
        ValueError: what `read_captions` raises; fewer than `LEAST` captions of indexed images; an
            index of captions; `WrongModel`.
    """
    folder = Path(folder)
    index = open_index(folder, exact=True)
    index.manifest.check(scorer)
    texts, own = labelled_captions(index, captions, LEAST)
    queries = scorer.encode_text(texts).cpu()
    answers = index.nearest(queries, TOP + 1)
    features, labels = _labelled(index.calibration, queries, answers, own)
    slope, offset = fit_logistic(features, labels, len(index))
    fit = Fit(slope, offset, len(own))
    with writer_lock(folder), change_catalog(folder) as catalog:
        store = store_of(folder, index.manifest)
        calibration = replace(renew_calibration(catalog, store, scorer), fit=fit)
        with catalog.transaction():
            write_calibration(catalog, calibration)
    return fit


def _labelled(
    null: Calibration,
    queries: Tensor,
    answers: Sequence[Sequence[tuple[float, int]]],
    own: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """z and label of the first `TOP` hits of each query, with its own image and without it."""
    scores: list[float] = []
    labels: list[float] = []
    for query, answer, mine in zip(queries, answers, own, strict=True):
        mean, deviation = null.background(query)
        others = [hit for hit in answer if hit[1] != mine]
        for cosine, id_ in [*answer[:TOP], *others[:TOP]]:
            scores.append((cosine - mean) / deviation)
            labels.append(float(id_ == mine))
    return torch.tensor(scores).double(), torch.tensor(labels).double()


def fit_logistic(scores: Tensor, labels: Tensor, count: int) -> tuple[float, float]:
    """Slope and offset of the likeliest logit P = slope * z + offset - log `count`.

    Labels are smoothed by Platt's rule, so the maximum exists. Newton's method on two parameters.
    """
    check_finite(scores, "scores")
    positive = float(labels.sum())
    negative = len(labels) - positive
    target = torch.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    design = torch.stack([scores, torch.ones_like(scores)], dim=1)  # (n, 2)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
    shift = torch.log(torch.tensor(float(count), dtype=torch.float64))
    for _ in range(100):
        chance = torch.sigmoid(design @ weights - shift)
        gradient = design.T @ (chance - target)
        curvature = (design.T * (chance * (1 - chance))) @ design + 1e-9 * torch.eye(2).double()
        step = torch.linalg.solve(curvature, gradient)
        weights = weights - step.clamp(-5, 5)
        if float(step.abs().max()) < 1e-10:
            break
    return float(weights[0]), float(weights[1])
