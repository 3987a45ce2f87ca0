"""The rows of `clipguide bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from clipguide.evaluation.cost.counting import step_flops
from clipguide.evaluation.cost.measuring import Measured, measure
from clipguide.evaluation.cost.rig import Rig
from clipguide.evaluation.cost.shapes import Shape
from clipguide.evaluation.cost.variants import CHEAPEST, COMMUNITY, LATENT, UNGUIDED


def shape_rows(shape: Shape, device: str, repeats: int) -> list[dict[str, Any]]:
    """One row per variant: operations at real size, and what was measured (None at 0 repeats).

    Keys: shape, variant, tflop, flop_ratio, target, milliseconds, seconds_ratio, peak_mib,
    peak_ratio; the ratios are over the unguided step.
    """
    flops = step_flops(Rig(shape))
    targets: dict[str, float] = dict(zip((CHEAPEST, LATENT), shape.targets, strict=True))
    measured = {row.variant: row for row in _measure(shape, device, repeats)}
    return [
        {
            "shape": shape.name,
            "variant": name,
            "tflop": count / 1e12,
            "flop_ratio": count / flops[UNGUIDED],
            "target": targets.get(name),
            **_figures(measured.get(name)),
        }
        for name, count in flops.items()
    ]


def added(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """What the community's step adds over what ours adds, where it runs; None if not measured."""
    shapes = {row["shape"] for row in rows if row["variant"] == COMMUNITY}
    found = {row["variant"]: row[key] for row in rows if row["shape"] in shapes}
    if found.get(COMMUNITY) is None or found.get(CHEAPEST) is None:
        return None
    return (found[COMMUNITY] - 1) / (found[CHEAPEST] - 1)


def _measure(shape: Shape, device: str, repeats: int) -> list[Measured]:
    if repeats == 0:
        return []
    real = device.startswith("cuda")
    width, pixels = (1, shape.pixels) if real else shape.reduced
    dtype = torch.bfloat16 if real else torch.float32
    return measure(Rig(shape, width, pixels, device, dtype), device, repeats)


def _figures(measured: Measured | None) -> dict[str, float | None]:
    if measured is None:
        return dict.fromkeys(("milliseconds", "seconds_ratio", "peak_mib", "peak_ratio"))
    return {
        "milliseconds": measured.seconds * 1e3,
        "seconds_ratio": measured.seconds_ratio,
        "peak_mib": measured.peak_bytes / 2**20,
        "peak_ratio": measured.peak_ratio,
    }
