"""Diversity, groups, ensembles, kept vectors, and the curve of best of n, against slow versions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_rewards import images
from torch import Tensor

import clipguide
from clipguide.clip.ensemble import Ensemble, rank_shares
from clipguide.clip.kept_vectors import KeptVectors, key_of
from clipguide.clip.scorer import Scorer
from clipguide.evaluation.best_of_curve import best_of_curve
from clipguide.images import ImageError, to_pil
from clipguide.rerank import rerank, rerank_groups

Cli = Callable[..., Outcome]


class Vectors:
    """A scorer of known vectors: an image is a picture of one grey, its number in a table."""

    name = "table"

    def __init__(self, table: Tensor, text: Tensor) -> None:
        self.table, self.text, self.seen = table, text, 0

    def encode_image(self, given: Any) -> Tensor:
        self.seen += len(given)
        return self.table[[image.getpixel((0, 0))[0] for image in given]]

    def score(self, given: Any, prompts: str) -> Tensor:
        return self.encode_image(given) @ self.text


def greys(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (2, 2), (grey,) * 3) for grey in range(count)]


def table(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)


def slow_order(vectors: list[list[float]], text: list[float], diversity: float) -> list[int]:
    """Maximal marginal relevance by its sentence."""

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    order: list[int] = []
    while len(order) < len(vectors):
        left = [i for i in range(len(vectors)) if i not in order]

        def value(i: int) -> float:
            near = max((dot(vectors[i], vectors[j]) for j in order), default=0.0)
            return (1 - diversity) * dot(vectors[i], text) - diversity * near

        order.append(max(left, key=value))
    return order


@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.7, 1.0])
def test_diversity_is_maximal_marginal_relevance(diversity: float) -> None:
    scorer = Vectors(table(9), table(1, seed=7)[0])
    found = rerank(greys(9), "x", scorer, diversity=diversity)
    expected = slow_order(scorer.table.tolist(), scorer.text.tolist(), diversity)
    if diversity < 1:
        assert [row.index for row in found] == expected
    else:  # the first of all has nothing to differ from: any may be it
        assert len({row.index for row in found}) == 9
    scores = scorer.table @ scorer.text
    assert all(row.score == pytest.approx(float(scores[row.index])) for row in found)
    assert [r.index for r in rerank(greys(9), "x", scorer, 3, diversity=diversity)] == [
        r.index for r in found[:3]
    ]


def test_copies_come_last() -> None:
    same = torch.tensor([[1.0, 0, 0, 0]] * 3 + [[0.6, 0.8, 0, 0]])
    scorer = Vectors(same, torch.tensor([1.0, 0, 0, 0]))
    assert [r.index for r in rerank(greys(4), "x", scorer)] == [0, 1, 2, 3]
    assert [r.index for r in rerank(greys(4), "x", scorer, diversity=0.6)] == [0, 3, 1, 2]


def test_diversity_orders_what_reached_the_last_scorer() -> None:
    cheap, dear = (Vectors(table(8, seed), table(1, 9)[0]) for seed in (1, 2))
    plain = rerank(greys(8), "x", [cheap, dear], keep=5)
    found = rerank(greys(8), "x", [cheap, dear], keep=5, diversity=0.5)
    assert {r.index for r in found[:5]} == {r.index for r in plain[:5]}
    assert found[5:] == plain[5:]


def test_groups_are_their_own_rankings(tiny_scorer: Scorer) -> None:
    x = to_pil(images(6, 32))
    rows = [("a fox", x[0]), ("a cat", x[1]), ("a fox", x[2]), ("a cat", x[0]), ("a fox", x[5])]
    found = rerank_groups(rows, tiny_scorer, 2)
    assert [*found] == ["a fox", "a cat"]
    for prompt, ranked in found.items():
        own = [place for place, row in enumerate(rows) if row[0] == prompt]
        alone = rerank([rows[place][1] for place in own], prompt, tiny_scorer, 2)
        assert [row.index for row in ranked] == [own[row.index] for row in alone]
        assert [row.score for row in ranked] == [row.score for row in alone]
        assert all(rows[row.index][1] is row.image for row in ranked)


def test_mistakes_of_diversity() -> None:
    class Scores:
        name = "scores"

        def score(self, given: Any, prompts: str) -> Tensor:
            return torch.zeros(len(given))

    with pytest.raises(ValueError, match="got diversity=2, expected a number in"):
        rerank(greys(2), "x", Scores(), diversity=2)
    with pytest.raises(ValueError, match="scores: got diversity with a scorer that has no vectors"):
        rerank(greys(2), "x", Scores(), diversity=0.5)
    assert rerank([], "x", Vectors(table(1), table(1)[0]), diversity=0.5) == []


# --------------------------------------------------------------------------------------- ensembles


def test_rank_shares_count_what_is_below() -> None:
    scores = [0.3, 0.1, 0.3, 0.9, -2.0]
    for i, share in enumerate(rank_shares(torch.tensor(scores)).tolist()):
        others = [s for j, s in enumerate(scores) if j != i]
        below = sum((s < scores[i]) + 0.5 * (s == scores[i]) for s in others)
        assert share == pytest.approx(below / len(others))
    assert rank_shares(torch.tensor([4.0])).tolist() == [0.5]


@pytest.mark.parametrize("by", ["rank", "score"])
def test_an_ensemble_averages(by: str) -> None:
    members = [Vectors(table(7, seed), 10.0**seed * table(1, 5)[0]) for seed in (0, 1, 2)]
    weights = [1.0, 2.0, 0.0]
    found = Ensemble(members, weights, by).score(greys(7), "x")
    expected = sum(
        w / 3 * (rank_shares(s) if by == "rank" else s)
        for w, s in zip(weights, [m.score(greys(7), "x").double() for m in members], strict=True)
    )
    torch.testing.assert_close(found, expected)
    both = rerank(greys(7), "x", Ensemble(members, by=by), 3)
    assert both[0].scorer == "table + table + table"
    cascade = rerank(greys(7), "x", [members[0], Ensemble(members)], keep=3)
    assert [r.scorer for r in cascade] == ["table + table + table"] * 3 + ["table"] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scorers": []}, "got 0 scorers"),
        ({"by": "mean"}, "got by='mean', expected one of rank, score"),
        ({"weights": [1.0]}, "expected 2 finite numbers"),
        ({"weights": [0.0, 0.0]}, "not all 0"),
        ({"weights": [1.0, math.nan]}, "expected 2 finite numbers"),
    ],
)
def test_ensembles_that_are_none(arguments: Any, message: str) -> None:
    member = Vectors(table(3), table(1)[0])
    with pytest.raises(ValueError, match=message):
        Ensemble(**{"scorers": [member, member], **arguments})


def test_nan_never_wins() -> None:
    bad = Vectors(torch.tensor([[math.nan] * 4] + [[1.0, 0, 0, 0]] * 2), table(1)[0])
    with pytest.raises(ValueError, match="got score nan for image 0"):
        Ensemble([bad, Vectors(table(3), table(1)[0])]).score(greys(3), "x")


# ------------------------------------------------------------------------------------ kept vectors


class Counting(Scorer):
    """A scorer that counts the images it embeds."""

    seen = 0

    def encode_image(self, given: Any, **options: Any) -> Tensor:
        Counting.seen += len(given)
        return super().encode_image(given, **options)


def test_vectors_are_kept_by_content(tiny_scorer: Scorer, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, image in zip(files, to_pil(images(3, 32)), strict=False):
        image.save(file)
    files[3].write_bytes(files[0].read_bytes())  # a copy under another name
    Counting.seen = 0
    scorer = Counting(tiny_scorer.model)
    kept = KeptVectors(scorer, tmp_path / "vectors")
    found = kept.score(files, "a fox")
    torch.testing.assert_close(found, tiny_scorer.score(files, "a fox"), atol=1e-6, rtol=0)
    assert Counting.seen == 3
    kept.score([*reversed(files)], "a cat")
    again = KeptVectors(scorer, tmp_path / "vectors")
    assert torch.equal(again.score(files, "a fox"), found)
    assert Counting.seen == 3
    to_pil(images(1, 32, seed=8))[0].save(files[1])  # the same name, another picture
    again.score(files, "a fox")
    assert Counting.seen == 4


def test_tensors_and_arrays_are_kept_too(tiny_scorer: Scorer) -> None:
    x, kept = images(3, 32), KeptVectors(tiny_scorer)
    expected = tiny_scorer.similarity(x, ["a fox", "a cat"])
    torch.testing.assert_close(kept.similarity(x, ["a fox", "a cat"]), expected, atol=1e-6, rtol=0)
    mixed = kept.encode_image([x[0], x[1].permute(1, 2, 0).numpy(), to_pil(x)[2]])
    torch.testing.assert_close(mixed[:2], tiny_scorer.encode_image(x)[:2], atol=1e-6, rtol=0)
    assert [row.index for row in rerank(x, "a fox", kept, diversity=0.4)]


def test_another_model_has_other_vectors(tiny_models: Path, tmp_path: Path) -> None:
    from clipguide.clip.loading import load_scorer

    image = to_pil(images(1, 32))[0]
    first, second = (KeptVectors(load_scorer(tiny_models / n), tmp_path) for n in ("clip", "judge"))
    assert not torch.equal(first.encode_image([image]), second.encode_image([image]))


def test_every_kind_of_image_has_a_key(tmp_path: Path) -> None:
    x = images(1, 8)
    image = to_pil(x)[0]
    image.save(tmp_path / "a.png")
    keys = {key_of(one) for one in (x, x[0].numpy(), image, tmp_path / "a.png", image.convert("L"))}
    assert len(keys) == 5
    assert key_of(str(tmp_path / "a.png")) == key_of(tmp_path / "a.png")
    with pytest.raises(ImageError, match="nowhere"):
        key_of(tmp_path / "nowhere.png")


def test_the_command_keeps_and_diversifies(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(to_pil(images(4, 32))):
        image.save(folder / f"{place}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    options = [folder, "--scorer", tiny_models / "clip", "--vectors", tmp_path / "kept", "--json"]
    first = cli("rerank", *options, "--prompt", "a fox")
    assert first.code == 0, first.err
    parts = {*(tmp_path / "kept").rglob("*.safetensors")}
    assert parts
    assert [row["image"] for row in first.data["bad"]] == [str(folder / "bad.png")]
    assert cli("rerank", *options, "--prompt", "a fox").data == first.data
    cli("rerank", *options, "--prompt", "a cat")
    assert {*(tmp_path / "kept").rglob("*.safetensors")} == parts
    varied = cli("rerank", *options, "--prompt", "a fox", "--diversity", 0.9)
    files = [folder / f"{place}.png" for place in range(4)]
    scorer = clipguide.load_scorer(tiny_models / "clip")
    expected = rerank(files, "a fox", scorer, diversity=0.9)
    assert [row["image"] for row in varied.data["results"]] == [str(row.image) for row in expected]


# ------------------------------------------------------------------------------------------- curve


def test_the_curve_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(0)
    scores, judged = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    for point in best_of_curve(scores, judged, ns=[1, 2, 4, 6]):
        slow = [
            judged[p][max(subset, key=lambda i, p=p: scores[p][i])]
            for p in range(3)
            for subset in itertools.combinations(range(6), point.n)
        ]
        assert point.mean == pytest.approx(np.mean(slow))
        assert point.low <= point.mean <= point.high


def test_the_interval_is_that_of_a_mean() -> None:
    scores = np.random.default_rng(1).normal(size=(400, 8))
    (point,) = best_of_curve(scores, ns=[1])
    error = scores.mean(axis=1).std() / 400**0.5
    assert point.high - point.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert [p.n for p in best_of_curve(scores[:, :6])] == [1, 2, 4, 6]
    assert best_of_curve(scores, ns=[8]) == best_of_curve(scores, ns=[8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": np.zeros(3)}, "expected .P, M. of both"),
        ({"judged": np.zeros((2, 2))}, "expected .P, M. of both"),
        ({"scores": np.full((2, 3), np.nan)}, "not finite"),
        ({"ns": [4]}, "expected 1 to 3"),
    ],
)
def test_curves_that_are_none(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_of_curve(**{"scores": np.zeros((2, 3)), **arguments})
