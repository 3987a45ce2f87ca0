"""From a cosine to the probability that a hit matches: how unlikely is it among the non-matching?

The null distribution is measured when the index is made: mean m and covariance C of its vectors.
The cosines of a query q with images that do not match it have mean q.m and variance q'Cq, whatever
the query is (text, image, a sum of both) and whatever the model. A hit is rated by its distance
from that, z = (cosine - q.m) / sqrt(q'Cq), and by how many contents N competed for the top:

    logit P(match) = slope * z + offset - log N

Without labelled pairs the slope comes from the model's own temperature t (its `logit_scale`): a
contrastive model is trained to make t * cosine the log ratio of matching to non-matching densities
(van den Oord et al. 2018, arXiv:1807.03748, Eq. 5), so slope = t * sigma, and -slope^2 / 2 makes
the ratio's mean over the null 1. `clipguide.retrieval.fitting` fits slope and offset to captions
instead (Platt 1999), which also mends a temperature that is too sure of itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from clipguide.retrieval.catalog import Catalog
from clipguide.retrieval.published import IndexDamaged

SAMPLE = 65_536
"""Contents whose vectors the null distribution is measured on, those of the smallest hashes."""
PRIOR = 0.5
"""Probability, before looking, that the index holds a match."""
_PRIOR_COUNT = 16  # contents that the prior variance counts for: it matters in tiny indexes alone
_PRIOR_DEVIATION = 0.05  # of cosines between texts and images that do not match

TENSORS, NUMBERS = "null distribution", "calibration"  # names of notes in the catalogue


@dataclass(frozen=True)
class Fit:
    """Slope and offset fitted to labelled pairs, and how many pairs those were."""

    slope: float
    offset: float
    pairs: int


@dataclass(frozen=True)
class Calibration:
    """The null distribution of an index, and what makes probabilities of it.

    Attributes:
        mean: (D,) float64, of the vectors.
        covariance: (D,D) float64.
        count: N, contents in the index.
        temperature: the model's `logit_scale`.
        fit: fitted parameters, where there are labelled pairs.
    """

    mean: Tensor
    covariance: Tensor
    count: int
    temperature: float
    fit: Fit | None = None

    def background(self, query: Tensor) -> tuple[float, float]:
        """Mean and standard deviation of the cosines of a (D,) query with what does not match."""
        query = query.detach().cpu().double()
        variance = float(query @ self.covariance @ query)
        known, prior = self.count * max(variance, 0.0), _PRIOR_COUNT * _PRIOR_DEVIATION**2
        deviation = math.sqrt((known + prior) / (self.count + _PRIOR_COUNT))
        return float(query @ self.mean), deviation

    def probabilities(self, cosines: Sequence[float], query: Tensor) -> list[float]:
        """The probability that each hit matches, by its cosine; increasing in the cosine."""
        mean, deviation = self.background(query)
        if self.fit is not None:
            slope, offset = self.fit.slope, self.fit.offset
        else:
            slope = self.temperature * deviation
            offset = math.log(PRIOR) - slope**2 / 2
        shift = offset - math.log(max(self.count, 1))
        return [_sigmoid(slope * (cosine - mean) / deviation + shift) for cosine in cosines]


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def measure_null(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D,D), float64, of (N,D) vectors, N >= 1."""
    vectors = vectors.detach().cpu().double()
    mean = vectors.mean(dim=0)
    centred = vectors - mean
    return mean, centred.T @ centred / len(vectors)


def write_calibration(catalog: Catalog, calibration: Calibration) -> None:
    """Keep it in the catalogue (inside a transaction of the caller's)."""
    tensors = {"mean": calibration.mean, "covariance": calibration.covariance.contiguous()}
    fit = None if calibration.fit is None else vars(calibration.fit)
    numbers = {"count": calibration.count, "temperature": calibration.temperature, "fit": fit}
    catalog.set_note(TENSORS, save(tensors))
    catalog.set_note(NUMBERS, json.dumps(numbers).encode())


def read_calibration(catalog: Catalog, embed_dim: int) -> Calibration:
    """What `write_calibration` kept.

    Raises:
        IndexDamaged: it is not as it was written, or not there because the first update was killed.
    """
    if not catalog.has_note(NUMBERS):
        raise IndexDamaged("the index is not finished: `clipguide index` again goes on with it")
    try:
        tensors = load(catalog.note(TENSORS))
        numbers: dict[str, Any] = json.loads(catalog.note(NUMBERS))
        fit = numbers["fit"]
        calibration = Calibration(
            mean=tensors["mean"],
            covariance=tensors["covariance"],
            count=int(numbers["count"]),
            temperature=float(numbers["temperature"]),
            fit=None if fit is None else Fit(**fit),
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IndexDamaged(f"its null distribution is damaged ({error!r}); index anew") from error
    if calibration.covariance.shape != (embed_dim, embed_dim):
        raise IndexDamaged("its null distribution is of another dimension; index anew")
    return calibration
