"""Reranking against plain sorting: order, ties, cascades, every kind of input."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip_dir
from torch import Tensor

import clipguide
from clipguide.clip.ensemble import Ensemble
from clipguide.clip.loading import load_scorer
from clipguide.images import ImageError, load_image, to_tensor
from clipguide.rerank import Images, Ranked, rerank, rerank_groups

GREYS = [40, 200, 40, 90, 250, 0]  # two equal ones
BY_BRIGHTNESS = [4, 1, 3, 0, 2, 5]


class Brightness:
    """A scorer whose right answers are known: mean brightness, times a sign. Counts its work."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign, self.seen = sign, 0
        self.name = f"brightness{sign:+.0f}"

    def score(self, images: Images, prompts: str) -> Tensor:
        if not isinstance(images, Tensor):
            images = to_tensor([load_image(image) for image in images])
        self.seen += len(images)
        return self.sign * images.mean(dim=(1, 2, 3))  # (B,)


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (grey, grey, grey)) for grey in GREYS]


def order(ranked: list[Ranked]) -> list[int]:
    return [row.index for row in ranked]


def test_best_first_and_ties_keep_their_order():
    images = pictures()
    ranked = rerank(images, "bright", Brightness())
    assert order(ranked) == BY_BRIGHTNESS
    for row in ranked:
        assert row.score == pytest.approx(GREYS[row.index] / 255)
        assert row.image is images[row.index]
        assert row.scorer == "brightness+1"
    assert order(rerank(images, "bright", Brightness(), top_k=2)) == BY_BRIGHTNESS[:2]
    assert order(rerank(images, "bright", Brightness(), top_k=99)) == BY_BRIGHTNESS


def test_paths_and_tensors_give_the_same_order(tmp_path: Path):
    images = pictures()
    paths = [tmp_path / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    from_paths = rerank(paths, "bright", Brightness())
    from_tensor = rerank(to_tensor(images), "bright", Brightness())
    assert order(from_paths) == order(from_tensor) == BY_BRIGHTNESS
    assert from_paths[0].image == paths[4]
    row = from_tensor[0].image
    assert isinstance(row, Tensor)
    assert torch.equal(row, to_tensor(images)[4])


def test_a_folder_stands_for_its_images(tmp_path: Path):
    for index, image in enumerate(pictures()):
        (tmp_path / f"{index % 2}").mkdir(exist_ok=True)
        image.save(tmp_path / f"{index % 2}" / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    ranked = rerank(tmp_path, "bright", Brightness())
    assert [Path(str(row.image)).stem for row in ranked] == [str(i) for i in BY_BRIGHTNESS]
    assert rerank(str(tmp_path), "bright", Brightness()) == ranked
    alone = tmp_path / "0" / "4.png"
    (row,) = rerank(alone, "bright", Brightness())
    assert (row.image, row.score) == (alone, ranked[0].score)
    assert rerank(pictures()[4], "bright", Brightness())[0].score == row.score
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no image files there"):
        rerank(tmp_path / "empty", "bright", Brightness())


@pytest.mark.parametrize("row", [("a", "b", "c"), "ab", (Path("a.png"), "a"), None])
def test_rows_of_a_table_that_are_none(row: object):
    with pytest.raises(ValueError, match=r"row 0.*expected \(prompt, image\)"):
        rerank_groups([row], Brightness())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (Brightness(), "got 1 scorers, expected two or more"),
        (["starter", "starter:judge"], "got a scorer of type str, expected a Scorer"),
    ],
)
def test_what_is_no_ensemble(members: object, message: str):
    with pytest.raises(ValueError, match=message):
        Ensemble(members)  # pyright: ignore[reportArgumentType]


def test_a_cascade_scores_fewer_images_with_each_scorer():
    cheap, middle, dear = Brightness(), Brightness(-1), Brightness()
    ranked = rerank(pictures(), "bright", [cheap, middle, dear], top_k=2, keep=[4, 2])
    assert (cheap.seen, middle.seen, dear.seen) == (6, 4, 2)
    # cheap keeps 4, 1, 3, 0; middle prefers the dark ones and keeps 0, 3; dear orders 3, 0
    assert order(ranked) == [3, 0]
    assert {row.scorer for row in ranked} == {dear.name}


def test_what_a_cascade_dropped_follows_with_the_score_that_dropped_it():
    ranked = rerank(pictures(), "bright", [Brightness(), Brightness(-1)], keep=3)
    assert order(ranked) == [3, 1, 4, 0, 2, 5]
    assert [row.scorer for row in ranked] == ["brightness-1"] * 3 + ["brightness+1"] * 3


def test_a_cascade_keeps_a_quarter_unless_more_are_asked_for():
    dear = Brightness()
    rerank(pictures(), "bright", [Brightness(), dear])
    assert dear.seen == math.ceil(len(GREYS) / 4)
    dear = Brightness()
    assert len(rerank(pictures(), "bright", [Brightness(), dear], top_k=5)) == 5
    assert dear.seen == 5


def test_each_scorer_of_a_long_cascade_keeps_a_quarter_of_what_it_saw():
    members = [Brightness(), Brightness(-1), Brightness(), Brightness(-1)]
    rerank(pictures() * 11, "bright", members)
    assert [member.seen for member in members] == [66, 17, 5, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_a_number_is_refused(value: float):
    class Broken(Brightness):
        def score(self, images: Images, prompts: str) -> Tensor:
            return super().score(images, prompts).index_fill(0, torch.tensor([4]), value)

    with pytest.raises(ValueError, match=f"got score {value} for image 4, expected a number"):
        rerank(pictures(), "bright", Broken())


def test_no_images_is_an_empty_ranking():
    assert rerank([], "bright", Brightness()) == []
    assert rerank([], "bright", [Brightness(), Brightness()]) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, "empty prompt"),
        ({"prompt": 3}, "got int as prompt 0"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"scorer": max}, "got a scorer of type builtin"),
        ({"scorer": []}, "no scorer"),
        ({"scorer": [Brightness()] * 2, "keep": 0}, "keep=0"),
        ({"scorer": [Brightness()] * 2, "keep": 2, "top_k": 3}, "at least top_k=3"),
        ({"scorer": [Brightness()] * 3, "keep": [2]}, "expected 2"),
        ({"top_k": True}, "got top_k=True, expected a whole number"),
        ({"top_k": math.nan}, "got top_k=nan, expected a whole number"),
        ({"top_k": "3"}, "got top_k='3', expected a whole number"),
        ({"scorer": [Brightness()] * 2, "keep": 1.5}, "got keep=1.5, expected a whole number"),
        ({"scorer": [Brightness()] * 2, "keep": "1"}, "got keep='1', expected a whole number"),
        ({"scorer": [Brightness()] * 3, "keep": [2, 0]}, "got keep=0, expected a whole number"),
        ({"diversity": "1"}, "got diversity='1', expected a number in"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str):
    call: dict[str, object] = {"prompt": "bright", "scorer": Brightness(), **arguments}
    with pytest.raises(ValueError, match=message):
        rerank(pictures(), **call)  # pyright: ignore[reportArgumentType]


def test_a_file_that_cannot_be_read_is_an_image_error(tmp_path: Path):
    with pytest.raises(ImageError, match=r"missing\.png"):
        rerank([tmp_path / "missing.png"], "bright", Brightness())


def test_scorers_by_name_are_their_own_scores(tmp_path: Path):
    names = [str(tiny_clip_dir(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    images = pictures()
    first, second = (load_scorer(name).score(images, "a fox").tolist() for name in names)
    ranked = rerank(images, "a fox", names, top_k=2, keep=3)
    kept = sorted(range(len(images)), key=lambda i: (-first[i], i))[:3]
    assert order(ranked) == sorted(kept, key=lambda i: (-second[i], i))[:2]
    # a step of float32 at 1: cosines near 0 are rounded at the size of their terms
    expected = pytest.approx([second[i] for i in order(ranked)], rel=0, abs=1e-7)
    assert [row.score for row in ranked] == expected
    assert ranked[0].scorer == names[1]


def test_public_name():
    assert clipguide.rerank is rerank
