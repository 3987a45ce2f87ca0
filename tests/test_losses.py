"""InfoNCE against a loop that spells it out, and against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clipguide.clip.losses import infonce


def _unit(count: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn((count, dim), generator=generator, dtype=torch.float64)
    return functional.normalize(vectors, dim=-1)


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _missed(own: float, others: list[float]) -> float:
    """-ln of the share that ``own`` gets among all of ``others``, itself one of them."""
    return math.log(sum(math.exp(other) for other in others)) - own


def _slow(images: Tensor, texts: Tensor, scale: float, negatives: Tensor | None) -> float:
    """One image and one caption at a time; wrong captions stand against images alone."""
    pictures, captions = images.tolist(), texts.tolist()
    wrong = [] if negatives is None else negatives.tolist()
    total = 0.0
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        to_text = [scale * _cosine(picture, other) for other in captions + wrong]
        to_image = [scale * _cosine(caption, other) for other in pictures]
        total += (_missed(to_text[i], to_text) + _missed(to_image[i], to_image)) / 2
    return total / len(pictures)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 6),
    wrong=st.integers(0, 8),
    scale=st.floats(0.5, 50),
    seed=st.integers(0, 10**6),
)
def test_infonce_is_what_the_loop_says(batch: int, wrong: int, scale: float, seed: int) -> None:
    images, texts = _unit(batch, 5, seed), _unit(batch, 5, seed + 1)
    negatives = _unit(wrong, 5, seed + 2) if wrong else None
    expected = _slow(images, texts, scale, negatives)
    assert infonce(images, texts, scale, negatives).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_it_is_ln_b_when_every_pair_looks_alike(batch: int, scale: float) -> None:
    same = _unit(1, 4, 0).expand(batch, 4)
    assert infonce(same, same, scale).item() == pytest.approx(math.log(batch), abs=1e-9)


def test_hard_negatives_enter_from_image_to_text_alone() -> None:
    same = _unit(1, 4, 0).expand(5, 4)
    loss = infonce(same, same, 100.0, same[:3]).item()
    assert loss == pytest.approx((math.log(5 + 3) + math.log(5)) / 2, abs=1e-9)


def test_a_far_negative_weighs_nothing_and_its_twin_costs_half_of_ln_2() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    assert infonce(eye, eye, 100.0, -eye).item() == pytest.approx(0.0, abs=1e-9)
    assert infonce(eye, eye, 100.0, eye).item() == pytest.approx(math.log(2) / 2, abs=1e-9)


def test_the_order_of_the_pairs_and_of_the_negatives_does_not_matter() -> None:
    images, texts, negatives = _unit(6, 5, 1), _unit(6, 5, 2), _unit(4, 5, 3)
    loss = infonce(images, texts, 20.0, negatives).item()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = infonce(images[order], texts[order], 20.0, negatives.flip(0)).item()
    assert other == pytest.approx(loss, abs=1e-12)


def test_gradients_reach_everything() -> None:
    given_ = [_unit(3, 4, 1), _unit(3, 4, 2), torch.tensor(2.0).double(), _unit(2, 4, 3)]
    assert torch.autograd.gradcheck(infonce, [value.requires_grad_() for value in given_])


@pytest.mark.parametrize(
    ("images", "texts"), [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((4,), (4,)), ((1, 3, 4), (1, 3, 4))]
)
def test_features_of_other_shapes_are_refused(
    images: tuple[int, ...], texts: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"got features .* and .*, expected two of shape \(B, D\)"):
        infonce(torch.zeros(images), torch.zeros(texts), 1.0)
