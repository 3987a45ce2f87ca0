"""Checks that need nothing but the package: pixels, guidance, statistics, the starter, the oracle.

A tolerance is what the cause of a difference allows: none for pixels, what 100 steps leave for
guidance, three standard errors of the drawn scenes for shares of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipguide.evaluation.verification import Check, Figure

CASES = (((97, 131), (64, 64)), ((40, 30), (224, 224)), ((300, 41), (50, 90)))
"""(height, width) from and to: down, up, and one axis each way."""
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SCENES = 300
UNSEEN = 50_000_000  # seed of the first scene; training draws others


def pixels(data: Path | None) -> Sequence[Figure]:
    """The largest difference from Pillow's own resize, of 255, by filter."""
    from clipguide.clip.resize import Axis, resize_as_pil

    figures: list[Figure] = []
    for name, kind in FILTERS.items():
        worst = 0.0
        for seed, ((height, width), (rows, columns)) in enumerate(CASES):
            image = _noise(height, width, seed)
            expected = np.asarray(image.resize((columns, rows), kind)).astype(float)
            given = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
            axes = Axis(height, rows, 0, rows), Axis(width, columns, 0, columns)
            got = resize_as_pil(given, *axes, name).permute(1, 2, 0).numpy()
            worst = max(worst, float(np.abs(got - expected).max()))
        figures.append(Figure(f"{name}, of 255", worst, 0.0, 0.0))
    return figures


def _noise(height: int, width: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    values[..., 1] = np.where(values[..., 1] > 127, 255, 0)  # hard edges: overshoot and clipping
    return Image.fromarray(values.astype(np.uint8))


def tensor_path(data: Path | None) -> Sequence[Figure]:
    """Scores of the starter's CLIP for a file and for the same picture as a tensor."""
    from clipguide.clip.loading import load_scorer
    from clipguide.images import to_tensor

    image = _noise(90, 120, 0)
    scorer = load_scorer("starter")
    as_file, as_tensor = (
        float(scorer.score(form, "a red star")) for form in ([image], to_tensor(image))
    )
    return [Figure("cosine of a tensor less that of the picture", as_tensor - as_file, 0.0, 1e-5)]


def exact_posteriors(data: Path | None) -> Sequence[Figure]:
    """How far guidance's samples are from posteriors known in closed form: (mean, variance)."""
    from clipguide.evaluation.closed_form import METHODS, PROBLEMS, run

    method = METHODS["tilt"]
    return [
        Figure(name, run(problem, method, 1.0, images=64).distance, 0.0, 0.02)
        for name, problem in PROBLEMS.items()
    ]


def tau_by_pairs(data: Path | None) -> Sequence[Figure]:
    """Kendall's tau-c against its definition, pair by pair, on tied random numbers."""
    from clipguide.evaluation.kendall import kendall_tau_c

    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, most, 150).astype(float) for most in (30, 4))
    return [Figure("tau-c", kendall_tau_c(x, y), tau_c_by_pairs(x, y), 1e-12)]


def tau_c_by_pairs(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """By its definition: every pair is looked at, those of one element at a time."""
    total = sum(float((np.sign(x[i] - x[:i]) * np.sign(y[i] - y[:i])).sum()) for i in range(len(x)))
    least = min(len(np.unique(x)), len(np.unique(y)))
    return 2 * total / (len(x) ** 2 * (least - 1) / least)


def clipscore_by_hand(data: Path | None) -> Sequence[Figure]:
    """CLIP-S and RefCLIP-S of the starter against the paper's formulas on its own vectors."""
    from clipguide.clip.loading import load_scorer
    from clipguide.data.scenes import render, sample_scene
    from clipguide.evaluation.reference_scores import clip_scores, ref_clip_scores

    scorer, image = load_scorer("starter"), render(sample_scene(3, count=1))
    caption, reference = "a small striped orange star", "an orange star"
    vectors = scorer.encode_text([f"A photo depicts {text}" for text in (caption, reference)])
    seen = scorer.encode_image([image])[0]
    clip_s = 2.5 * max(float(seen @ vectors[0]), 0.0)
    near = max(float(vectors[0] @ vectors[1]), 0.0)
    harmonic = 2 * clip_s * near / (clip_s + near) if clip_s + near else 0.0
    got = float(clip_scores(scorer, [image], [caption]))
    got_reference = float(ref_clip_scores(scorer, [image], [caption], [[reference]]))
    return [
        Figure("CLIPScore", got, clip_s, 1e-5),
        Figure("RefCLIPScore", got_reference, harmonic, 1e-5),
    ]


SWAPS = {  # percent, clipguide/assets/starter/README.md
    "starter": {"relation": 98.4, "order": 98.4, "binding": 100.0},
    "starter:judge": {"relation": 97.7, "order": 97.3, "binding": 99.7},
}


def swap_accuracy(name: str) -> Sequence[Figure]:
    """How often a bundled CLIP tells a caption from its swaps, on scenes it never saw."""
    from clipguide.clip.loading import load_scorer
    from clipguide.data.scene_captions import spec_of
    from clipguide.data.scenes import render, sample_scene
    from clipguide.evaluation import swaps

    scorer = load_scorer(name)
    scenes = [sample_scene(UNSEEN + number, count=2) for number in range(SCENES)]
    specs = [spec_of(scene, Random(i), relation=1.0) for i, scene in enumerate(scenes)]
    vectors: Tensor = scorer.encode_image([render(scene) for scene in scenes])
    found = swaps.swap_accuracy(vectors, specs, scorer.encode_text)
    return [Figure(f"{k} %", 100 * found[k], expected, 3.0) for k, expected in SWAPS[name].items()]


def oracle_rates(data: Path | None) -> Sequence[Figure]:
    """How often the oracle is right on drawn scenes, about their own captions and wrong ones."""
    from clipguide.evaluation.image_transforms import jpeg, unchanged
    from clipguide.evaluation.oracle_report import measure_oracle

    kinds = {"clean": unchanged, "jpeg 85": jpeg(85)}
    report = measure_oracle(150, seed=UNSEEN, transforms=kinds)
    return [
        Figure(f"{what} captions, {kind} %", report.overall(kind, wrong=wrong).percent, 100.0, 1.0)
        for kind in kinds
        for what, wrong in (("own", False), ("wrong", True))
    ]


def round_trip(data: Path | None) -> Sequence[Figure]:
    """The same after a round trip through the starter's autoencoder."""
    from clipguide.attach.starter import load_starter
    from clipguide.evaluation.image_transforms import autoencoder
    from clipguide.evaluation.oracle_report import measure_oracle

    kinds = {"autoencoder": autoencoder(load_starter().vae)}
    report = measure_oracle(100, seed=0, transforms=kinds)  # the first of the card's 2,000
    own, wrong = (report.overall("autoencoder", wrong=wrong) for wrong in (False, True))
    return [
        Figure("own captions %", own.percent, 99.75, 1.5),
        Figure("wrong captions %", wrong.percent, 100.0, 1.0),
    ]


CARD = "model card of the starter"
OFFLINE = (
    Check("resize against Pillow", "Pillow's own resize", pixels),
    Check("picture against tensor", "its own score of the file", tensor_path),
    Check("guidance against exact posteriors", "closed form, docs of mode tilt", exact_posteriors),
    Check("Kendall tau-c pair by pair", "Stuart 1953", tau_by_pairs),
    Check("CLIPScore by hand", "Hessel et al. 2021, section 3", clipscore_by_hand),
    Check("starter, word order", CARD, lambda data: swap_accuracy("starter")),
    Check("starter:judge, word order", CARD, lambda data: swap_accuracy("starter:judge")),
    Check("oracle on drawn scenes", "clipguide/evaluation/oracle_report.py", oracle_rates),
    Check("oracle after the starter's autoencoder", CARD, round_trip),
)
