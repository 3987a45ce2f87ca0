"""Every family of the registry: decoded as its own tail does, undone to the bit, and climbing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families.parts import Family
from families.registry import FAMILIES
from families.runs import SEEDS, gain, guided, images, last_decoded, reward, slope_ratio, unguided
from torch import Tensor

EACH = pytest.mark.parametrize("family", FAMILIES, ids=str)
EACH_XT = pytest.mark.parametrize("family", [f for f in FAMILIES if "xt" in f.modes], ids=str)
EACH_MODE = pytest.mark.parametrize(
    ("family", "mode"),
    [(f, mode) for f in FAMILIES for mode in f.modes if mode != "noisy"],  # rewards of images
    ids=str,
)


@EACH
def test_the_last_guided_x0_decoded_is_what_the_pipeline_returns(family: Family) -> None:
    preview, returned = last_decoded(family)
    assert preview.std() > 0.01
    torch.testing.assert_close(preview, returned, rtol=0, atol=2e-5)


@EACH_MODE
def test_strength_zero_is_the_unguided_image_to_the_bit(family: Family, mode: Any) -> None:
    plain = unguided(family)
    found, trace = guided(family, mode, strength=0.0)
    assert torch.equal(found, plain)
    assert trace.steps


@EACH_MODE
def test_guidance_climbs_and_is_undone_to_the_bit(family: Family, mode: Any) -> None:
    plain = unguided(family)
    found, trace = guided(family, mode)
    assert gain(family, found) > 0
    assert not trace.skipped
    assert not found.requires_grad
    assert torch.equal(images(family), plain)


@EACH_XT
def test_the_gradient_of_mode_xt_is_the_slope_of_the_score(family: Family) -> None:
    assert slope_ratio(family) == pytest.approx(1, abs=5e-3)


@EACH_XT
def test_checkpointing_computes_the_same(family: Family) -> None:
    """Of the denoiser and the autoencoder, in every family whose modules offer it."""
    plain, _ = guided(family, "xt")
    found, _ = guided(family, "xt", checkpoint=True)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-4)


@EACH
def test_a_low_resolution_decode_is_of_the_size_asked_for(family: Family) -> None:
    sizes: list[tuple[int, ...]] = []

    def watched(pictures: Tensor) -> Tensor:
        sizes.append((*pictures.shape,))
        return reward()(pictures)

    guided(family, "x0", reward=watched, decode_size=8)
    assert {*sizes} == {(len(SEEDS), 3, 8, 8)}
