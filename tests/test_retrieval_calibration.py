"""Match probabilities against Bayes' rule, scipy's optimum, and simulated searches."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import minimize
from scipy.stats import norm

from clipguide.clip.scorer import Scorer
from clipguide.retrieval import ImageFolder, open_index, update_index
from clipguide.retrieval.calibration import PRIOR, Calibration, Fit, measure_null
from clipguide.retrieval.fitting import calibrate_index, fit_logistic


def calibration(vectors: torch.Tensor, temperature: float, fit: Fit | None = None) -> Calibration:
    return Calibration(*measure_null(vectors), len(vectors), temperature, fit)


def test_the_background_is_that_of_all_cosines() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(5000, 8), dim=1)
    query = torch.nn.functional.normalize(torch.randn(8), dim=0)
    mean, deviation = calibration(vectors, 1).background(query)
    cosines = (vectors.double() @ query.double()).numpy()
    assert mean == pytest.approx(cosines.mean(), abs=1e-6)
    prior = 16 * 0.05**2
    expected = math.sqrt((5000 * cosines.var() + prior) / 5016)
    assert deviation == pytest.approx(expected, rel=1e-4)


@given(
    temperature=st.floats(1, 100),
    count=st.integers(1, 10**6),
    cosine=st.floats(-0.2, 0.6),
)
def test_without_labels_it_is_bayes_rule_for_two_gaussians(
    temperature: float, count: int, cosine: float
) -> None:
    """Others N(m, s), matching N(m + t * s^2, s): the log of their ratio has slope t."""
    mean, query = torch.tensor([0.1, 0.0]).double(), torch.tensor([1.0, 0.0])
    null = Calibration(mean, torch.eye(2).double() * 0.05**2, count, temperature)
    found = null.probabilities([cosine], query)[0]
    matching = norm.logpdf(cosine, 0.1 + temperature * 0.05**2, 0.05) + math.log(PRIOR / count)
    other = norm.logpdf(cosine, 0.1, 0.05)
    assert found == pytest.approx(1 / (1 + math.exp(min(other - matching, 700))), rel=1e-6)


@given(seed=st.integers(0, 1000))
def test_the_fit_is_the_likeliest(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(2, 1, 300)
    labels = (random.random(300) < 1 / (1 + np.exp(-(1.5 * scores - 4)))).astype(float)
    labels[:2] = 0, 1
    positive, negative = labels.sum(), (1 - labels).sum()
    target = np.where(labels > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(weights: np.ndarray) -> float:
        logits = weights[0] * scores + weights[1] - math.log(40)
        return float((np.logaddexp(0, logits) - target * logits).sum())

    truth = minimize(loss, [1.0, 0.0], method="BFGS").x
    found = fit_logistic(torch.tensor(scores), torch.tensor(labels), 40)
    assert found == pytest.approx(truth, abs=2e-3)


def test_probabilities_are_frequencies_and_min_p_is_an_answer() -> None:
    """Simulated searches, half of them for something that is not there."""
    random = torch.Generator().manual_seed(0)
    count, dim, slope = 300, 64, 5.0
    images = torch.nn.functional.normalize(torch.randn(count, dim, generator=random), dim=1)
    null = calibration(images, temperature=slope * dim**0.5)
    chances, hits = [], []
    for number in range(1500):
        query = torch.nn.functional.normalize(torch.randn(dim, generator=random), dim=0)
        cosines = images @ query  # of deviation 1/8: what does not match
        own = number % 2 == 0
        if own:
            cosines[0] += slope * dim**-0.5
        top = int(cosines.argmax())
        chances.append(null.probabilities([float(cosines[top])], query)[0])
        hits.append(float(own and top == 0))
    p, y = np.array(chances), np.array(hits)
    bins = np.clip((p * 10).astype(int), 0, 9)
    error = sum(abs(p[bins == b].sum() - y[bins == b].sum()) for b in range(10)) / len(p)
    assert error <= 0.05
    assert y[p >= 0.5].mean() >= 0.8
    assert y[p >= 0.5].sum() / y.sum() >= 0.8


def test_captions_fit_an_index_and_the_fit_stays(tmp_path: Path, tiny_scorer: Scorer) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    lines = ["image\tcaption"]
    for number in range(24):
        noise = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((32, 32)).save(tmp_path / "photos" / f"{number}.png")
        lines.append(f"{number}.png\tcaption number {number}")
    (tmp_path / "c.tsv").write_text("\n".join([*lines, "elsewhere.png\tnot indexed"]))
    place, source = tmp_path / "index", ImageFolder(tmp_path / "photos")
    update_index(place, source, tiny_scorer)
    query = tiny_scorer.encode_text("a fox")
    before = open_index(place).search(query)[0]
    fit = calibrate_index(place, tmp_path / "c.tsv", tiny_scorer)
    assert fit.pairs == 24
    (tmp_path / "photos" / "0.png").unlink()
    update_index(place, source, tiny_scorer)
    index = open_index(place)
    assert index.calibration.fit == fit
    hit = index.search(query)[0][0]
    mean, deviation = index.calibration.background(query[0])
    logit = fit.slope * (hit.cosine - mean) / deviation + fit.offset - math.log(23)
    assert hit.probability == pytest.approx(1 / (1 + math.exp(-logit)))
    assert hit.probability != before[0].probability
