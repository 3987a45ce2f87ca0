"""What guidance costs and which scale pushes as hard, against counts and a closed form."""

from __future__ import annotations

import pytest
import torch
from tiny_pipelines import call, draw, tiny_pipeline, tiny_scorer

from clipguide import ClipReward, guide
from clipguide.attach.spending import counted, displacements


def test_rows_that_went_through_the_denoiser() -> None:
    pipe = tiny_pipeline()
    reward = ClipReward(tiny_scorer(), "a star")
    with counted(pipe) as spent:
        draw(pipe, 0, 1, steps=4, guidance_scale=3.0)
    assert spent.rows == 4 * 2 * 2  # steps, pictures, both halves
    with counted(pipe) as spent:
        draw(pipe, 0, steps=4, guidance_scale=1.0)
    assert spent.rows == 4
    with guide(pipe, reward, strength=0.1), counted(pipe) as spent:
        draw(pipe, 0, steps=4, guidance_scale=3.0)
    assert spent.rows == 4 * 2  # mode x0 takes no gradient through the denoiser
    with guide(pipe, reward, strength=0.1, mode="xt", window=(0, 1)), counted(pipe) as spent:
        draw(pipe, 0, steps=4, guidance_scale=3.0)
    assert spent.rows == 3 * 4 * 2  # and mode xt a backward pass, which counts as two
    assert "forward" not in vars(pipe.unet)


@pytest.mark.parametrize("strength", [0.2, 0.7])
def test_the_matched_scale_of_a_fraction_of_the_free_displacement(strength: float) -> None:
    """normalize="cfg" moves x0 by exactly that fraction, so the scale is w·(1 + strength)."""
    pipe = tiny_pipeline()
    reward = ClipReward(tiny_scorer(), "a star")
    with (
        guide(pipe, reward, strength=strength, normalize="cfg") as trace,
        displacements(pipe) as moved,
    ):
        call(pipe, steps=5, guidance_scale=3.0)
    assert len(trace.steps) == len(moved.own) == 5
    assert moved.matched_scale(3.0) == pytest.approx(3.0 * (1 + strength), rel=1e-4)


def test_measuring_changes_no_picture() -> None:
    pipe = tiny_pipeline()
    reward = ClipReward(tiny_scorer(), "a star")
    with guide(pipe, reward, strength=0.5):
        plain = call(pipe, steps=3, guidance_scale=3.0)
    with guide(pipe, reward, strength=0.5), displacements(pipe), counted(pipe):
        measured = call(pipe, steps=3, guidance_scale=3.0)
    assert torch.equal(plain, measured)


def test_nothing_to_match_is_said() -> None:
    pipe = tiny_pipeline()
    reward = ClipReward(tiny_scorer(), "a star")
    with guide(pipe, reward, strength=0.0), displacements(pipe) as moved:
        call(pipe, guidance_scale=3.0)
    with pytest.raises(ValueError, match="got no displacement to match"):
        moved.matched_scale(3.0)
    with (
        guide(pipe, reward, strength=0.5),
        displacements(pipe),
        pytest.raises(ValueError, match="classifier-free guidance in one batch"),
    ):
        call(pipe, guidance_scale=1.0)
