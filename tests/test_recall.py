"""Recall and median rank against a loop, and their intervals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clipguide.evaluation.recall import image_ranks, retrieval, text_ranks


def vectors(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn((count, 4), generator=generator), dim=-1)


def slow(images: Tensor, texts: Tensor, owners: list[int]) -> tuple[list[int], list[int]]:
    table = (texts @ images.T).tolist()
    by_text = [
        1 + sum(value >= row[owner] for i, value in enumerate(row) if i != owner)
        for row, owner in zip(table, owners, strict=True)
    ]
    by_image: list[int] = []
    for i in range(len(images)):
        column = [row[i] for row in table]
        best = max(value for value, owner in zip(column, owners, strict=True) if owner == i)
        others = [value for value, owner in zip(column, owners, strict=True) if owner != i]
        by_image.append(1 + sum(value >= best for value in others))
    return by_text, by_image


@settings(max_examples=40)
@given(count=st.integers(1, 8), extra=st.integers(0, 9), seed=st.integers(0, 10**6))
def test_ranks_and_recall_are_what_the_loop_says(count: int, extra: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    owners = torch.cat([torch.arange(count), torch.randint(count, (extra,), generator=generator)])
    images, texts = vectors(count, seed), vectors(len(owners), seed + 1)
    by_text, by_image = slow(images, texts, owners.tolist())
    assert text_ranks(images, texts, owners).tolist() == by_text
    assert image_ranks(images, texts, owners).tolist() == by_image
    found = retrieval(images, texts, owners, samples=20)
    for name, ranks in (("text_to_image", by_text), ("image_to_text", by_image)):
        for k in (1, 5, 10):
            share = 100 * sum(rank <= k for rank in ranks) / len(ranks)
            assert found[name].at[k] == pytest.approx(share)
            low, high = found[name].interval[k]
            assert 0 <= low <= high <= 100
        assert found[name].median_rank == torch.tensor(ranks).double().quantile(0.5).item()


def test_ties_count_as_wrong() -> None:
    same = vectors(1, 0).expand(12, 4)
    found = retrieval(same, same, torch.arange(12))
    assert found["text_to_image"].at == {1: 0.0, 5: 0.0, 10: 0.0}
    assert found["image_to_text"].median_rank == 12


def test_the_interval_is_that_of_a_share_of_independent_images() -> None:
    """Half of 400 images found: the interval of a binomial share is 50 ± 1.96 · 2.5."""
    images = torch.eye(400)
    texts = torch.cat([images[:200], images[:200].roll(1, 0) * 0 - images[200:]])
    found = retrieval(images, texts, torch.arange(400), samples=4000)["text_to_image"]
    assert found.at[1] == 50.0
    assert found.interval[1] == pytest.approx((45.1, 54.9), abs=0.6)


def test_captions_of_one_image_are_drawn_together() -> None:
    """The same hits on four captions an image: as wide as one caption an image, not half of it."""
    images = torch.eye(100)
    right = torch.cat([images[:50], -images[50:]])
    one = retrieval(images, right, torch.arange(100))["text_to_image"].interval[1]
    owners = torch.arange(100).repeat(4)
    four = retrieval(images, right.repeat(4, 1), owners)["text_to_image"].interval[1]
    assert four == one


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got vectors \(2, 4\) and \(3, 5\)"):
        retrieval(torch.zeros(2, 4), torch.zeros(3, 5), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="got owners"):
        retrieval(vectors(3, 0), vectors(3, 1), torch.tensor([0, 1, 1]))
