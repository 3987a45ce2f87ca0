"""Checks that need the folder of data (`CLIPGUIDE_DATA`, or `--data`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from clipguide.evaluation.verification import Check, Figure, Skipped
from clipguide.evaluation.verify_offline import tau_c_by_pairs

RATINGS = 16_992  # Hessel et al. 2021, section 4.1: an image's own captions left out


def data_file(data: Path | None, name: str) -> Path:
    """A file or folder of the data. Skipped where it is not there."""
    if data is None:
        raise Skipped(f"needs {name}: give --data DIR, or set CLIPGUIDE_DATA")
    if not (data / name).exists():
        raise Skipped(f"needs {data / name}, which is not there")
    return data / name


def expert_ratings(data: Path | None) -> Sequence[Figure]:
    """How many single ratings Flickr8k-Expert has, and tau-c of two people, pair by pair."""
    from clipguide.data.ratings import read_ratings
    from clipguide.evaluation.kendall import kendall_tau_c

    folder = data_file(data, "flickr8k/expert.tsv").parent
    rated, _ = read_ratings(folder / "expert.tsv", folder / "captions.tsv")
    first, second = (np.array([pair.ratings[i] for pair in rated]) for i in (0, 1))
    count = float(sum(len(pair.ratings) for pair in rated))
    expected = tau_c_by_pairs(first, second)
    return [
        Figure("ratings", count, RATINGS, 0.0),
        Figure("tau-c of two people", kendall_tau_c(first, second), expected, 1e-12),
    ]


def aesthetic_heads(data: Path | None) -> Sequence[Figure]:
    """LAION's linear heads on ten rating embeddings each, against the scores they must give."""
    from clipguide.rewards.aesthetic import load_aesthetic_head

    figures: list[Figure] = []
    for name in ("l_14", "b_32"):
        file = data_file(data, f"aesthetic/laion_linear_vit_{name}.safetensors")
        stored = load_file(file)
        with torch.no_grad():
            found: Tensor = load_aesthetic_head(file)(stored["rating_embeddings"]).squeeze(-1)
        worst = float((found - stored["expected_scores"]).abs().max())
        figures.append(Figure(f"{name}, largest error of 10 scores", worst, 0.0, 1e-4))
    return figures


WITH_DATA = (
    Check("Flickr8k-Expert ratings", "Hessel et al. 2021, section 4.1", expert_ratings),
    Check("aesthetic golden values", "LAION's aesthetic predictor, its test", aesthetic_heads),
)
