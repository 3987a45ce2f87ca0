"""Matching, the confusion's picture, the sheet of failures and the map, on tiny real models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_backbones import COLORS, SHAPES, draw, toy_captions

from clipguide.clip.scorer import Scorer
from clipguide.evaluation.projection import project
from clipguide.report.confusion_picture import RIGHT, confusion_picture
from clipguide.report.matches import captions_picture, images_picture
from clipguide.zero_shot import match

Cli = Callable[..., Outcome]
TEXTS = ["a red ball", "a blue box", "a white bar", "a green dog"]


def pictures() -> list[Image.Image]:
    return [draw("red", "ball"), draw("blue", "box"), draw("white", "bar")]


def test_matches_are_the_sorted_softmax_of_logits(tiny_scorer: Scorer) -> None:
    cosines = tiny_scorer.similarity(pictures(), TEXTS).tolist()
    for rows, by in ((cosines, "image"), ([list(c) for c in zip(*cosines, strict=True)], "text")):
        found = match(tiny_scorer, pictures(), TEXTS, top_k=2, by=by)
        assert len(found) == len(rows)
        for row, matches in zip(rows, found, strict=True):
            weights = [2.718281828459045 ** (tiny_scorer.logit_scale * value) for value in row]
            order = sorted(range(len(row)), key=lambda i: -row[i])[:2]
            assert [one.index for one in matches] == order
            assert [one.cosine for one in matches] == pytest.approx([row[i] for i in order])
            expected = [weights[i] / sum(weights) for i in order]
            assert [one.probability for one in matches] == pytest.approx(expected, abs=1e-5)
    for wrong in ({"top_k": 0}, {"by": "word"}):
        with pytest.raises(ValueError, match="got"):
            match(tiny_scorer, pictures(), TEXTS, **wrong)


def test_own_captions_are_green_in_the_picture(tiny_scorer: Scorer) -> None:
    found = match(tiny_scorer, pictures(), TEXTS)
    plain = captions_picture(pictures(), TEXTS, found)
    marked = captions_picture(pictures(), TEXTS, found, [[0], [1], [2]])
    green = (0x1F, 0x77, 0x50)
    assert green not in {color for _, color in plain.getcolors(2**24) or []}
    assert green in {color for _, color in marked.getcolors(2**24) or []}
    long = ["word " * 60, "w" * 400, *TEXTS[2:]]
    assert captions_picture(pictures(), long, found).height > plain.height
    assert images_picture(TEXTS, pictures(), match(tiny_scorer, pictures(), TEXTS, by="text")).width
    with pytest.raises(ValueError, match="as many"):
        captions_picture(pictures()[:1], TEXTS, found)


def test_the_confusion_is_drawn_where_it_is() -> None:
    picture = confusion_picture([[4, 0], [1, 3]], ["cat", "dog"], "title")
    colors = {color for _, color in picture.getcolors(2**24) or []}
    assert RIGHT in colors  # all four cats were right
    white = confusion_picture([[0, 0], [0, 0]], ["cat", "dog"])
    assert RIGHT not in {color for _, color in white.getcolors(2**24) or []}
    with pytest.raises(ValueError, match="square"):
        confusion_picture([[1, 2]], ["cat", "dog"])


def test_failures_and_confusion_as_pictures(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    for shape in SHAPES:
        (tmp_path / "set" / shape).mkdir(parents=True)
        for color in COLORS:
            draw(color, shape).save(tmp_path / "set" / shape / f"{color}.png")
    sheet, drawn = tmp_path / "failures.png", tmp_path / "confusion.png"
    base = ["classify", tmp_path / "set", "--scorer", tiny_models / "clip"]
    done = cli(*base, "--folders", "--failures", sheet, "--confusion", drawn, "--json")
    wrong = 12 - sum(done.data["verdict"]["confusion"][i][i] for i in range(3))
    assert wrong
    labels = ["ball", "bar", "box"]
    title = f"accuracy {done.data['verdict']['accuracy']:.1%} of 12 images"
    expected = confusion_picture(done.data["verdict"]["confusion"], labels, title)
    assert Image.open(drawn).tobytes() == expected.tobytes()
    assert Image.open(sheet).width > 192
    refused = cli(*base, "--labels", "a,b", "--confusion", drawn)
    assert (refused.code, "--folders" in refused.err) == (2, True)
    twice = cli(*base, "--labels", "cat,dog,cat")
    assert (twice.code, twice.err.count("\n")) == (2, 1)
    assert "['cat'] more than once" in twice.err


def test_match_knows_own_captions(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    captions, out = toy_captions(tmp_path), tmp_path / "out.png"
    base = ["match", tmp_path / "images", "--scorer", tiny_models / "clip"]
    done = cli(*base, "--captions", captions, "--top-k", 24, "--out", out, "--json")
    assert done.data["texts"] == 24
    for row in done.data["results"]:
        color, shape = Path(row["image"]).stem.split("_")
        for answer in row["matches"]:
            assert answer["own"] == (f"{color} {shape}" in answer["text"])
        assert sum(answer["probability"] for answer in row["matches"]) == pytest.approx(1, abs=1e-4)
    assert Image.open(out).height > 12 * 200
    (tmp_path / "texts.txt").write_text("a red ball\n\na red ball\na dog\n")
    shown = cli(*base, "--texts", tmp_path / "texts.txt", "--by-text", "--out", out)
    assert shown.out.splitlines()[2].startswith("a red ball")
    unknown = cli(*base, "--texts", tmp_path / "texts.txt", "--json").data["results"]
    assert all("own" not in answer for row in unknown for answer in row["matches"])
    neither = cli(*base)
    assert (neither.code, "--texts" in neither.err) == (2, True)


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_the_map_keeps_near_things_near_and_is_seeded(method: str) -> None:
    pytest.importorskip("umap" if method == "umap" else "sklearn", reason="needs clipguide[plot]")
    random = torch.Generator().manual_seed(0)
    groups = torch.eye(8)[torch.arange(40) % 2 * 3]
    noise = torch.randn(2, 40, 8, generator=random) * 0.1
    sides = [torch.nn.functional.normalize(groups + part, dim=1) for part in noise]
    images, texts = project(*sides, method, seed=1)
    again = project(*sides, method, seed=1)
    assert (images == again[0]).all()
    assert (texts == again[1]).all()
    center = [images[place::2].mean(axis=0) for place in (0, 1)]
    for place, text in enumerate(texts):
        gaps = [((text - middle) ** 2).sum() for middle in center]
        assert gaps[place % 2] < gaps[1 - place % 2]


def test_what_cannot_be_mapped_is_refused() -> None:
    unit = torch.eye(4)
    for images, texts, method in ((unit, unit[:, :2], "umap"), (unit, unit[:0], "tsne")):
        with pytest.raises(ValueError, match="got"):
            project(images, texts, method)
    with pytest.raises(ValueError, match="expected one of"):
        project(unit, unit, "pca")


def test_plot_writes_a_picture_and_its_points(cli: Cli, tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs clipguide[plot]")
    pytest.importorskip("matplotlib", reason="needs clipguide[plot]")
    captions, out = toy_captions(tmp_path), tmp_path / "map.png"
    base = ["plot", "--captions", captions, "--images", tmp_path / "images", "--method", "tsne"]
    done = cli(
        *base, "--scorer", tiny_models / "clip", "--out", out, "--lines", "--center", "--json",
        "--count", 5, "--per-image", 2,
    )  # fmt: skip
    assert (len(done.data["images"]), len(done.data["captions"])) == (5, 10)
    assert [row["image"] for row in done.data["captions"]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert Image.open(out).size == (1100, 990)
    wrong = cli(*base[:-1], "pca", "--out", out)
    assert (wrong.code, "umap, tsne" in wrong.err) == (2, True)


def test_a_missing_extra_is_one_line() -> None:
    code = (
        "import sys; sys.modules['umap'] = None\n"
        "from clipguide.extras import need\n"
        "try: need('umap', 'plot')\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "umap is not installed: pip install 'clipguide[plot]'"
