"""The parts of `clipguide filter`: thresholds from examples, repeats, rules, lists, copies."""

from __future__ import annotations

import csv
import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from clipguide.data.captions import CaptionError, read_captions
from clipguide.data.keep_lists import WRITERS, copies_of, copy_all, read_examples
from clipguide.evaluation.threshold import pick_threshold
from clipguide.retrieval.repeats import find_repeats
from clipguide.retrieval.rule_values import agreements, best_of_each, margins, ratings
from clipguide.retrieval.rules import Cut, Rule, kept_by_all, taken

EXAMPLES = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=14)


def slow_pick(values: list[float], truth: list[bool]) -> tuple[Fraction, float] | None:
    """Best difference of shares over all half ways, and the widest gap with it, by trying all."""
    yes, no = sum(truth), len(truth) - sum(truth)
    found: list[tuple[Fraction, float]] = []
    for low, high in itertools.pairwise(sorted(set(values))):
        above = [right for value, right in zip(values, truth, strict=True) if value >= high]
        wrong = Fraction(len(above) - sum(above), no)
        found.append((Fraction(sum(above), yes) - wrong, high - low))
    best = max(found, default=(Fraction(0), 0.0))
    return best if best[0] > 0 else None


@given(EXAMPLES)
@example([(0, False)] * 4 + [(0, True), (2, False), (2, True)] + [(3, False)] * 2 + [(3, True)] * 5)
def test_the_threshold_is_the_best_of_all_half_ways(examples: list[tuple[int, bool]]) -> None:
    values, truth = [float(value) for value, _ in examples], [right for _, right in examples]
    given_ = torch.tensor(values), torch.tensor(truth)
    if len(set(truth)) == 1 or (wanted := slow_pick(values, truth)) is None:
        with pytest.raises(ValueError, match=r"expected some of both|between no two"):
            pick_threshold(*given_)
        return
    found = pick_threshold(*given_)
    above = [right for value, right in zip(values, truth, strict=True) if value >= found.threshold]
    no = len(truth) - sum(truth)
    gain = Fraction(sum(above), sum(truth)) - Fraction(len(above) - sum(above), no)
    assert (gain, found.between[1] - found.between[0]) == wanted
    assert found.between[0] < found.threshold < found.between[1]
    assert found.precision == pytest.approx(sum(above) / len(above))
    assert found.recall == pytest.approx(sum(above) / sum(truth))


def test_a_name_that_is_not_utf8_is_in_a_list_and_in_no_table(tmp_path: Path) -> None:
    rows = [{"image": "bad\udcff.png", "keep": True}]
    WRITERS[".txt"](tmp_path / "x.txt", rows)
    assert (tmp_path / "x.txt").read_bytes() == b"bad\xff.png\n"
    for suffix in (".csv", ".jsonl"):
        with pytest.raises(ValueError, match="which is not UTF-8"):
            WRITERS[suffix](tmp_path / f"x{suffix}", rows)


def test_examples_in_the_wrong_order_have_no_threshold() -> None:
    with pytest.raises(ValueError, match=r"between no two of them lies a threshold"):
        pick_threshold(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"expected as many finite numbers"):
        pick_threshold(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))


def vectors_of(count: int, seed: int = 0) -> Tensor:
    """Unit vectors in pairs that are alike."""
    drawn = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


@pytest.mark.parametrize("threshold", [0.2, 0.7, 0.95])
def test_no_two_that_stay_are_near_and_each_repeat_is_near_one(threshold: float) -> None:
    vectors = vectors_of(300)  # more than a block
    found = find_repeats(vectors, range(300), threshold)
    stays: list[int] = []
    for place, vector in enumerate(vectors):  # one after the other, as the words say
        near = [float(vector @ vectors[one]) for one in stays]
        repeat = any(cosine >= threshold for cosine in near)
        assert (float(found.cosines[place]) >= threshold) == repeat
        assert float(found.cosines[place]) == pytest.approx(max(near, default=-1), abs=1e-5)
        assert place == 0 or found.twins[place] in stays
        if not repeat:
            stays.append(place)
    assert 1 < len(stays) < 300


def test_the_same_bytes_repeat_at_a_threshold_of_one() -> None:
    vectors = vectors_of(3).half()[[0, 1, 0, 2]]
    assert find_repeats(vectors, [5, 6, 5, 7], 1.0).cosines[2] == 1.0
    with pytest.raises(ValueError, match=r"got threshold 1.5"):
        find_repeats(vectors, [5, 6, 5, 7], 1.5)


def test_numbers_are_those_of_one_item_at_a_time() -> None:
    images, keep, drop = vectors_of(5), vectors_of(2, 1), vectors_of(3, 2)
    for image, found in zip(images, margins(images, keep, drop).tolist(), strict=True):
        first = max(float(image @ one) for one in keep)
        assert found == pytest.approx(first - max(float(image @ one) for one in drop), abs=1e-6)
    owners = torch.tensor([3, 0, 3, 1])
    near = agreements(images, vectors_of(4, 3), owners)
    wanted = [float(images[o] @ t) for o, t in zip(owners, vectors_of(4, 3), strict=True)]
    assert near.tolist() == pytest.approx(wanted, abs=1e-6)
    best = best_of_each(near, owners, 5)
    assert best[3] == max(near[0], near[2])
    assert best.isnan().tolist() == [False, False, True, False, True]
    with pytest.raises(ValueError, match=r"head for vectors of 8 numbers, expected 4"):
        ratings(images, torch.nn.Linear(8, 1))


def test_what_rules_take_alone_and_on_which_side_items_lie() -> None:
    values = torch.tensor([0.5, 0.1, float("nan"), 0.4, 0.9]).double()
    upper, lower = Cut(values, 0.45), Cut(values, 0.45, below=True)
    assert upper.kept().tolist() == [True, False, False, False, True]
    assert lower.kept().tolist() == [False, True, False, True, False]
    assert upper.sides(2) == ([0, 4], [3, 1])
    rules = [Rule.of("a", "", upper), Rule("b", "", torch.tensor([True, True, False, True, False]))]
    assert [(one.dropped, one.alone) for one in taken(rules)] == [(3, 2), (2, 1)]
    assert kept_by_all(rules).tolist() == [True, False, False, False, False]


ROWS = [
    {"image": "a/1.png", "caption": 'a "red", ball', "keep": True, "dropped_by": "", "side": 8.0},
    {"image": "2,3.png", "caption": "two", "keep": False, "dropped_by": "side", "side": None},
]


def test_tables_can_be_read_again(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl"):
        WRITERS[suffix](tmp_path / f"x{suffix}", ROWS)
        found = read_captions(tmp_path / f"x{suffix}")
        assert [(one.image, one.text) for one in found] == [
            (row["image"], row["caption"]) for row in ROWS
        ]
    with (tmp_path / "x.csv").open() as opened:
        assert [row["keep"] for row in csv.DictReader(opened)] == ["yes", "no"]
    lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    WRITERS[".txt"](tmp_path / "x.txt", ROWS)
    assert (tmp_path / "x.txt").read_text() == "a/1.png\n"
    with pytest.raises(ValueError, match=r"which no list of a name a line can hold"):
        WRITERS[".txt"](tmp_path / "y.txt", [{"image": "a\nb.png", "keep": True}])


def test_a_parquet_holds_the_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    WRITERS[".parquet"](tmp_path / "x.parquet", ROWS)
    assert parquet.read_table(tmp_path / "x.parquet").to_pylist() == ROWS


def test_examples_of_unclear_answers_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png")]
    table = tmp_path / "x.csv"
    table.write_text("image,keep,more\na.png,Yes,1\nb.png,drop,2\nb.png,no,3\nc.png,yes,4\n")
    answers, notes = read_examples(table, files, [tmp_path])
    assert answers == {files[0]: True, files[1]: False}
    assert "1 images are not there, e.g. c.png" in notes[0]
    for text, told in {
        "image,keep\na.png,perhaps\n": "got keep 'perhaps' of a.png, expected yes or no",
        "image,keep\na.png,yes\na.png,no\n": "got yes and no for",
        "image,keep\nz.png,yes\n": "none of its images is there",
        "image,caption\na.png,yes\n": "expected image and keep",
    }.items():
        table.write_text(text)
        with pytest.raises(CaptionError, match=told):
            read_examples(table, files, [tmp_path])
    with pytest.raises(CaptionError, match=r"expected .csv or .tsv with columns image and keep"):
        read_examples(tmp_path / "x.txt", files, [tmp_path])


def test_copies_keep_their_places_and_what_is_there(tmp_path: Path) -> None:
    root, to = tmp_path / "root", tmp_path / "to"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png"):
        Image.new("RGB", (4, 4)).save(root / name)
    (root / "sub/a.txt").write_text("a caption")
    pictures = [root / "a.png", root / "sub/a.png"]
    copies = copies_of(pictures, root, to)
    (to).mkdir()
    (to / "a.png").write_bytes((root / "a.png").read_bytes())  # as a killed run leaves it
    assert copy_all(copies_of(pictures, root, to)) == 2
    assert {target.relative_to(to).as_posix() for target in copies.values()} == {
        "a.png", "sub/a.png", "sub/a.txt"
    }  # fmt: skip
    for source, target in copies.items():
        assert source.read_bytes() == target.read_bytes()
    (to / "sub/a.txt").write_text("another")
    with pytest.raises(ValueError, match=r"got other files there, which are kept: .*a.txt"):
        copies_of(pictures, root, to)
    with pytest.raises(ValueError, match=r"expected a folder elsewhere"):
        copies_of(pictures, root, root / "kept")
