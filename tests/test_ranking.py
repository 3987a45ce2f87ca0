"""Rankings with several right answers against a walk down each sorted list."""

from __future__ import annotations

import pytest
import torch

from clipguide.evaluation.ranking import precisions, rank_answers


def test_a_walk_down_the_list_says_the_same() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (40, 12), generator=random).float()  # many ties
    relevant = torch.rand(40, 12, generator=random) < 0.3
    relevant[:, 3] = True
    found = rank_answers(scores, relevant)
    for query in range(40):
        rows = zip(scores[query].tolist(), relevant[query].tolist(), strict=True)
        walk = [right for _, right in sorted(rows, key=lambda row: (-row[0], row[1]))]
        places = [place for place, right in enumerate(walk, 1) if right]
        precisions = [number / place for number, place in enumerate(places, 1)]
        expected = sum(precisions) / len(places)
        assert float(found.average_precision[query]) == pytest.approx(expected, abs=1e-6)
        top = sum(walk[: len(places)]) / len(places)
        assert float(found.r_precision[query]) == pytest.approx(top, abs=1e-6)
        assert int(found.first[query]) == places[0]


def test_scikit_learn_says_the_same_without_ties() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = torch.Generator().manual_seed(1)
    scores = torch.rand(10, 15, generator=random)
    relevant = torch.rand(10, 15, generator=random) < 0.4
    relevant[:, 0] = True
    found = rank_answers(scores, relevant).average_precision
    for row, right, value in zip(scores, relevant, found, strict=True):
        expected = metrics.average_precision_score(right.numpy(), row.numpy())
        assert float(value) == pytest.approx(expected, abs=1e-6)


def test_equal_scores_are_the_worst_order() -> None:
    found = rank_answers(torch.ones(1, 4), torch.tensor([[True, False, False, False]]))
    assert (float(found.average_precision), int(found.first)) == (0.25, 4)


def test_what_cannot_be_ranked_is_said() -> None:
    right = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match="query 1 without a right answer"):
        rank_answers(torch.zeros(2, 2), right)
    with pytest.raises(ValueError, match="scores that are NaN"):
        rank_answers(torch.full((1, 2), torch.nan), right[:1])
    with pytest.raises(ValueError, match="expected \\(Q, N\\)"):
        rank_answers(torch.zeros(2, 3), right)


def test_precisions_of_images_and_captions_are_the_slow_ones() -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.nn.functional.normalize(torch.randn(7, 8, generator=generator), dim=1)
    owners = torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 6])
    texts = torch.nn.functional.normalize(
        images[owners] + torch.randn(11, 8, generator=generator), dim=1
    )
    found = precisions(images, texts, owners)
    for direction, queries, answers, right in (
        ("text_to_image", texts, images, lambda q, n: int(owners[q]) == n),
        ("image_to_text", images, texts, lambda q, n: int(owners[n]) == q),
    ):
        average: list[float] = []
        share: list[float] = []
        for q, query in enumerate(queries):
            order = sorted(range(len(answers)), key=lambda n: -float(query @ answers[n]))
            hits = [right(q, n) for n in order]
            total = sum(hits)
            average.append(
                sum(sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / total
            )
            share.append(sum(hits[:total]) / total)
        assert found[direction]["mAP"] == pytest.approx(100 * sum(average) / len(average))
        assert found[direction]["R-precision"] == pytest.approx(100 * sum(share) / len(share))
