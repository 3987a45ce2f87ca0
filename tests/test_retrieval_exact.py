"""Exact search and the pieces of a query against slow, obvious versions."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clipguide.clip.scorer import Scorer
from clipguide.retrieval.dot import exact_products
from clipguide.retrieval.equal_rows import EqualRows
from clipguide.retrieval.exact import best, search_rows
from clipguide.retrieval.one_query import FirstLook
from clipguide.retrieval.query import Term, embed_query, parse_query


def unit_rows(count: int, dim: int, seed: int) -> Tensor:
    rows = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def slowly(vectors: Tensor, ids: Tensor, query: Tensor, top_k: int) -> list[tuple[float, int]]:
    """In exact fractions, rounded once."""
    pairs = []
    for row, id_ in zip(vectors.tolist(), ids.tolist(), strict=True):
        dot = sum((Fraction(a) * Fraction(b) for a, b in zip(row, query.tolist(), strict=True)), 0)
        pairs.append((float(dot), id_))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:top_k]


@given(seed=st.integers(0, 10_000), top_k=st.integers(1, 12), copies=st.integers(0, 3))
def test_search_is_exact_and_ties_go_by_id(seed: int, top_k: int, copies: int) -> None:
    vectors = unit_rows(20, 8, seed).half()
    vectors = torch.cat([vectors, *[vectors[:4]] * copies])  # rows that are equal
    ids = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
    queries = unit_rows(2, 8, seed + 1)
    found = search_rows(vectors, ids, queries, top_k)
    assert found == [slowly(vectors, ids, query, top_k) for query in queries]


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 60), max_size=7))
def test_parts_searched_apart_and_merged_are_the_whole(seed: int, cuts: list[int]) -> None:
    vectors, ids = unit_rows(60, 16, seed).half(), torch.arange(60)
    vectors[30:] = vectors[:30]
    query = unit_rows(1, 16, seed + 1)
    edges = [0, *sorted(cuts), 60]
    merged = []
    for low, high in pairwise(edges):
        merged += search_rows(vectors[low:high], ids[low:high], query, 9)[0] if low < high else []
    assert best(9, merged) == search_rows(vectors, ids, query, 9)[0]


def test_rows_that_are_not_kept_are_not_found() -> None:
    vectors, ids = unit_rows(30, 8, 0), torch.arange(30)
    keep = torch.arange(30) % 3 == 0
    query = unit_rows(1, 8, 1)
    found = search_rows(vectors, ids, query, 20, keep)[0]
    assert found == slowly(vectors[keep], ids[keep], query[0], 20)
    assert search_rows(vectors, ids, query, 5, torch.zeros(30, dtype=torch.bool)) == [[]]


def test_near_ties_are_decided_exactly() -> None:
    """Rows whose products differ by less than float32 can say are still in the right order."""
    base = unit_rows(1, 64, 0)[0]
    rows = base.repeat(40, 1)
    noise = torch.randn(40, 64, generator=torch.Generator().manual_seed(1)) * 1e-8
    rows = rows + noise
    query = unit_rows(1, 64, 2)
    assert search_rows(rows, torch.arange(40), query, 40)[0] == slowly(
        rows, torch.arange(40), query[0], 40
    )


FEW = unit_rows(1, 48, 3)[0] * (torch.arange(48) % 9 == 2)
"""A query that is mostly 0."""


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("query", [unit_rows(1, 48, 3)[0], torch.eye(48)[5], FEW, 0 * FEW])
def test_products_are_those_of_fractions_rounded_once(dtype: torch.dtype, query: Tensor) -> None:
    """Also of rows that follow each other, that do not, and whose halves nearly cancel."""
    rows = unit_rows(600, 48, 4)
    rows[300:310, 24:] = -rows[300:310, :24] * query[:24] / query[24:].where(query[24:] != 0, 1.0)
    rows = rows.clamp(-2, 2).to(dtype)
    every = exact_products(rows, query)
    right = slowly(rows, torch.arange(600), query, 600)
    assert {row: value for value, row in right} == dict(enumerate(every.tolist()))
    mixed = torch.randperm(600, generator=torch.Generator().manual_seed(5))
    for some in (torch.arange(7, 590), mixed, mixed[:0]):
        assert exact_products(rows, query, some).tolist() == every[some].tolist()


def test_of_many_equal_rows_the_lowest_ids_are_found() -> None:
    rows = unit_rows(900, 32, 6).half()
    rows[100:] = rows[:1]
    ids = torch.randperm(900, generator=torch.Generator().manual_seed(7))
    queries = torch.cat([rows[:1].float(), unit_rows(6, 32, 8)])
    one_by_one = [search_rows(rows, ids, query[None], 12)[0] for query in queries]
    assert search_rows(rows, ids, queries, 12) == one_by_one
    assert one_by_one == [slowly(rows, ids, query, 12) for query in queries]


def _close_rows(kind: str, count: int, dim: int) -> Tensor:
    """Rows that no float32 product tells apart: the first 2,000, every second, or all."""
    base, other = unit_rows(1, dim, 0), unit_rows(count, dim, 1)
    draw = torch.randint(-2, 3, (count, dim), generator=torch.Generator().manual_seed(2))
    close = base.half() + draw * 2.0**-13 if "nearly" in kind else base.half().expand(count, -1)
    if "tied" in kind:  # different rows, one product with a one-hot query
        close = torch.cat([base[:, :1].expand(count, -1), other[:, 1:]], dim=1).half()
    rows = close.clone()
    if "some" in kind:
        rows[2000:] = other[2000:].half()
    if "second" in kind:
        rows[::2] = other[::2].half()
    return rows


@pytest.mark.parametrize(
    "kind", ["equal, some", "equal, second", "equal, all", "nearly, some", "nearly, all", "tied"]
)
@pytest.mark.parametrize("kept", [False, True])
def test_of_a_crowd_of_close_rows_the_nearest_are_found(kind: str, kept: bool) -> None:
    dim, top_k = 6, 3
    rows = _close_rows(kind, 4500, dim)
    order = torch.randperm(4500, generator=torch.Generator().manual_seed(3))
    keep = order % 7 > 0 if kept else None
    near = rows[:1].float() + 0.01 * unit_rows(3, dim, 4)
    queries = torch.cat([torch.eye(dim)[:1], near, -near[:1], unit_rows(1, dim, 5)])
    there = slice(None) if keep is None else keep
    right: list[list[tuple[float, int]]] = []
    for query in queries:  # of float16 and float32 a product is exact in float64
        sums = [math.fsum(row) for row in (rows[there].double() * query.double()).tolist()]
        pairs = zip(sums, order[there].tolist(), strict=True)
        right.append(sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:top_k])
    assert search_rows(rows, order, queries, top_k, keep) == right
    alone = [search_rows(rows, order, query[None], top_k, keep)[0] for query in queries]
    assert alone == right


@pytest.mark.parametrize("kind", ["one crowd", "strays", "two crowds"])
def test_rows_nearly_equal_are_told_apart_by_their_differences(kind: str) -> None:
    """Crowds of float32 rows, with strays among them, and another far away that is as near."""
    dim, count = 16, 7000
    rows = unit_rows(1, dim, 0) + 1e-6 * unit_rows(count, dim, 1)
    query = torch.cat([rows[0, :8], torch.zeros(8)])
    if kind == "strays":
        rows[5::200] = unit_rows(count, dim, 2)[5::200]
    if kind == "two crowds":
        rows[3000:, 8:] = rows[3000:, 8:].flip(1)
    ids = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    sums = [math.fsum(row) for row in (rows.double() * query.double()).tolist()]
    right = sorted(zip(sums, ids.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    assert search_rows(rows, ids, query[None], 5) == [right[:5]]


@pytest.mark.parametrize("dim", [1, 5, 12, 512])
def test_products_added_in_parts_are_within_their_error(dim: int) -> None:
    """Of more rows than a block has, against float64."""
    rows = unit_rows(2500, dim, 0).half()
    query = unit_rows(1, dim, 1)[0]
    look = FirstLook(query)
    whole, error = look.at(rows)
    products, less = look.in_parts(rows)
    truth = rows.double() @ query.double()
    assert products.shape == (2500,)
    assert float((whole - truth).abs().max()) <= float(error)
    assert float((products - truth).abs().max()) <= float(less)
    assert float(less) == pytest.approx(float(error) * math.ceil(dim / 8) / dim)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("spread", "look"), [(2e-3, "at"), (1e-4, "in_parts"), (1e-6, "at_crowded")]
)
def test_rows_are_looked_at_as_closely_as_they_are_near(
    spread: float, look: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows found are right, and most blocks are multiplied the cheapest way that is enough."""
    called: list[str] = []
    for name in ("at", "in_parts", "at_crowded"):
        whole = getattr(FirstLook, name)

        def noted(self: FirstLook, rows: Tensor, whole: Any = whole, name: str = name) -> Any:
            called.extend([name] * (len(rows) == 4096))
            return whole(self, rows)

        monkeypatch.setattr(FirstLook, name, noted)
    dim, count = 512, 30_000
    rows = unit_rows(1, dim, 0) + spread * unit_rows(count, dim, 1)
    query, ids = rows[0], torch.arange(count)
    keep = ids % 3 > 0 if kept else None
    sums = (rows.double() @ query.double()).tolist()
    there = [row for row in range(count) if keep is None or keep[row]]
    right = sorted(there, key=lambda row: -sums[row])[:7]
    found = search_rows(rows, ids, query[None], 7, keep)
    assert [id_ for _, id_ in found[0]] == right
    assert Counter(called).most_common(1)[0][0] == look


def test_equal_rows_are_those_of_equal_values() -> None:
    rows = unit_rows(40, 7, 0).half()[torch.arange(600) % 40]  # 14 bytes a row
    rows[100, 3] += 2**-10
    ids = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    keep = torch.arange(600) % 11 > 0
    for there in (None, keep):
        numbers = [row for row in range(600) if there is None or there[row]]
        groups: dict[tuple[float, ...], list[int]] = {}
        for row in numbers:
            groups.setdefault(tuple(rows[row].tolist()), []).append(row)
        equal = EqualRows(rows, ids, there)
        firsts = equal.first.nonzero()[:, 0]
        assert firsts.tolist() == sorted(group[0] for group in groups.values())
        for group in groups.values():
            product = torch.tensor([0.5])
            _, found = equal.members(torch.tensor(group[:1]), product, 4)
            assert found.tolist() == sorted(ids[group].tolist())[:4]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("a red fox", [Term("a red fox")]),
        (
            "beach + dog.jpg - people",
            [Term("beach"), Term("dog.jpg", 1, "image"), Term("people", -1)],
        ),
        ("2*snow - 0.5*cars", [Term("snow", 2), Term("cars", -0.5)]),
        ('0.5*"a car"', [Term("a car", 0.5)]),
        ('"rock + roll" - "dog.jpg"', [Term("rock + roll"), Term("dog.jpg", -1)]),
        ("text:dog.jpg + image:photo", [Term("dog.jpg"), Term("photo", 1, "image")]),
        ("- people", [Term("people", -1)]),
        ("my dog/a b.PNG", [Term("my dog/a b.PNG", 1, "image")]),
        ("t-shirt+hat", [Term("t-shirt+hat")]),
    ],
)
def test_queries_are_parsed(text: str, terms: list[Term]) -> None:
    assert list(parse_query(text)) == terms


@pytest.mark.parametrize("text", ["", "  ", "a +", "a + - b", "- - b", '""', "2*", "text:"])
def test_queries_without_a_term_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="got query"):
        parse_query(text)


def test_a_query_is_the_sum_of_its_terms(tiny_scorer: Scorer) -> None:
    vector = embed_query(parse_query("2*beach + sea - 0.5*people"), tiny_scorer)
    rows = tiny_scorer.encode_text(["beach", "sea", "people"]).double()
    total = 2 * rows[0] + rows[1] - 0.5 * rows[2]
    assert torch.allclose(vector.double(), total / total.norm(), atol=1e-6)
    assert math.isclose(float(vector.norm()), 1, rel_tol=1e-6)
    with pytest.raises(ValueError, match="cancel"):
        embed_query(parse_query("a - a"), tiny_scorer)
